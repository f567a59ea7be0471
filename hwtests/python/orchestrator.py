"""An orchestrator that knows of Penstock nothing but its published protobuf.

Makes what a host needs to use a volume: volume, host, subsystem, namespace, listener; waits on the
operations; prints the volume's layout as JSON. The modules `penstock.v1.*_pb2*` are generated from
control/api/proto beforehand and found through PYTHONPATH.
"""

import argparse
import json
import sys
import uuid

import grpc
from google.protobuf import json_format

from penstock.v1 import host_pb2, host_pb2_grpc
from penstock.v1 import layout_pb2, layout_pb2_grpc
from penstock.v1 import listener_pb2, listener_pb2_grpc
from penstock.v1 import namespace_pb2, namespace_pb2_grpc
from penstock.v1 import operation_pb2, operation_pb2_grpc
from penstock.v1 import subsystem_pb2, subsystem_pb2_grpc
from penstock.v1 import volume_pb2, volume_pb2_grpc

# Seconds: a single call, and one operation from its beginning to its end.
CALL_TIMEOUT = 15
OPERATION_TIMEOUT = 60


def wait(channel, operation):
    """Waits until the operation has ended well."""
    operations = operation_pb2_grpc.OperationServiceStub(channel)
    request = operation_pb2.WaitOperationRequest(name=operation.name)
    request.timeout.FromSeconds(OPERATION_TIMEOUT)
    ended = operations.WaitOperation(request, timeout=OPERATION_TIMEOUT + CALL_TIMEOUT)
    if not ended.done or ended.HasField("error"):
        raise SystemExit(f"{ended.verb} {ended.target} did not end well: {ended}")


def make_volume(channel, arguments):
    """A volume; asked for twice, as after a lost answer, it is made once."""
    volumes = volume_pb2_grpc.VolumeServiceStub(channel)
    request = volume_pb2.CreateVolumeRequest(
        volume_id=arguments.volume, request_id=str(uuid.uuid4())
    )
    request.volume.spec.size_bytes = arguments.size_mib << 20
    request.volume.spec.placement.node = f"nodes/{arguments.node}"
    operation = volumes.CreateVolume(request, timeout=CALL_TIMEOUT)
    again = volumes.CreateVolume(request, timeout=CALL_TIMEOUT)
    if operation.name != again.name:
        raise SystemExit(f"a repeated request began {again.name} after {operation.name}")
    wait(channel, operation)


def make_access(channel, arguments):
    """A subsystem that one host may use, with the volume as its namespace, and a listener."""
    hosts = host_pb2_grpc.HostServiceStub(channel)
    request = host_pb2.CreateHostRequest(host_id="guest")
    request.host.spec.nqn = arguments.host_nqn
    host = hosts.CreateHost(request, timeout=CALL_TIMEOUT)

    subsystems = subsystem_pb2_grpc.SubsystemServiceStub(channel)
    request = subsystem_pb2.CreateSubsystemRequest(subsystem_id="s1")
    request.subsystem.spec.hosts.append(host.name)
    subsystem = subsystems.CreateSubsystem(request, timeout=CALL_TIMEOUT)

    namespaces = namespace_pb2_grpc.NamespaceServiceStub(channel)
    request = namespace_pb2.CreateNamespaceRequest(parent=subsystem.name, namespace_id="ns1")
    request.namespace.spec.volume = f"volumes/{arguments.volume}"
    wait(channel, namespaces.CreateNamespace(request, timeout=CALL_TIMEOUT))

    listeners = listener_pb2_grpc.ListenerServiceStub(channel)
    request = listener_pb2.CreateListenerRequest(
        parent=f"nodes/{arguments.node}", listener_id="l1"
    )
    request.listener.spec.address = "127.0.0.1"
    request.listener.spec.port = arguments.listen_port
    wait(channel, listeners.CreateListener(request, timeout=CALL_TIMEOUT))


def expect_refusals(channel):
    """What is wrong is refused with the right code."""
    volumes = volume_pb2_grpc.VolumeServiceStub(channel)
    bad = volume_pb2.CreateVolumeRequest(volume_id="Not A Name")
    bad.volume.spec.size_bytes = 1 << 20
    cases = [
        (lambda: volumes.CreateVolume(bad, timeout=CALL_TIMEOUT), grpc.StatusCode.INVALID_ARGUMENT),
        (
            lambda: volumes.GetVolume(
                volume_pb2.GetVolumeRequest(name="volumes/none"), timeout=CALL_TIMEOUT
            ),
            grpc.StatusCode.NOT_FOUND,
        ),
    ]
    for call, expected in cases:
        try:
            call()
        except grpc.RpcError as error:
            if error.code() != expected:
                raise SystemExit(f"refused with {error.code()}, not {expected}: {error}") from error
        else:
            raise SystemExit(f"not refused; expected {expected}")


def main():
    """Does all of it and prints the layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--control", required=True, help="HOST:PORT of the API")
    parser.add_argument("--node", required=True, help="node for the volume")
    parser.add_argument("--volume", required=True, help="name of the volume")
    parser.add_argument("--size-mib", required=True, type=int, help="size of the volume in MiB")
    parser.add_argument("--host-nqn", required=True, help="host that gets access")
    parser.add_argument("--listen-port", required=True, type=int, help="port of the listener")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.control) as channel:
        expect_refusals(channel)
        make_volume(channel, arguments)
        make_access(channel, arguments)
        layouts = layout_pb2_grpc.LayoutServiceStub(channel)
        request = layout_pb2.GetLayoutRequest(volume=f"volumes/{arguments.volume}")
        layout = layouts.GetLayout(request, timeout=CALL_TIMEOUT)
    json.dump(json_format.MessageToDict(layout, preserving_proto_field_name=True), sys.stdout)


if __name__ == "__main__":
    main()
