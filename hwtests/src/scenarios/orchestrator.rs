//! Somebody else's orchestrator, made from the published protobuf alone, gives a Linux host storage.

use super::data::verified;
use crate::bench::{Bench, expect_text};
use crate::cluster::{Control, Device, Storage, Store, until};
use crate::error::{IoContext, LabError, Result, check};
use crate::guest::HOST_ADDRESS;
use crate::initramfs::HOST_NQN;
use crate::process;
use crate::python::Python;
use serde_json::Value;
use std::time::Duration;

const NODES: [&str; 2] = ["n1", "n2"];
const LIMIT: Duration = Duration::from_secs(60);
const WRITE_LIMIT: Duration = Duration::from_secs(180);

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    let python = Python::prepare()?;
    let (dir, log) = (bench.dir().to_owned(), bench.log().clone());
    let stubs = dir.join("stubs");
    std::fs::create_dir(&stubs).doing(|| format!("create {}", stubs.display()))?;
    python.generate(&stubs)?;
    let control = Control::start(&dir, "control", &Store::Embedded, &log)?;
    let api = control.api()?;
    let mut nodes = Vec::new();
    for name in NODES {
        api.create_node(name)?;
        let devices = [Device::File("d0", 256)];
        nodes.push(Storage::start(
            &dir,
            name,
            &[control.port()],
            &devices,
            &log,
        )?);
    }
    until("both nodes to be online", LIMIT, || {
        let online = "penstock_control_agents_connected";
        Ok(control.metric(online)? > 1.5)
    })?;
    let port = process::free_port()?;
    let server = format!("127.0.0.1:{}", control.port());
    let port_text = port.to_string();
    #[rustfmt::skip]
    let arguments = [
        "--control", &server, "--node", NODES[0], "--volume", "v1", "--size-mib", "64",
        "--host-nqn", HOST_NQN, "--listen-port", &port_text,
    ];
    let printed = python.run("orchestrator.py", &arguments, &stubs)?;
    bench.note(&format!("layout: {printed}"));
    let layout: Value = serde_json::from_str(&printed)
        .map_err(|err| LabError::Check(format!("the client printed {printed:?}: {err}")))?;
    let nqn = connect(bench, &layout, port)?;
    write(bench)?;
    discover(bench, &nqn, port, nodes[1].port())?;
    bench.guest.run(&format!("nvme disconnect -n {nqn}"))?;
    for node in &mut nodes {
        node.service.check_running()?;
        node.service.stop()?;
    }
    let mut control = control;
    control.service.check_running()?;
    control.service.stop()
}

/// Connects the guest where the layout says, and returns the subsystem's NQN.
fn connect(bench: &mut Bench, layout: &Value, port: u16) -> Result<String> {
    expect_text(layout, "volume", "volumes/v1")?;
    let paths = layout["paths"].as_array().map_or(&[][..], Vec::as_slice);
    let path = paths
        .iter()
        .find(|path| path["address"]["port"] == port)
        .ok_or_else(|| LabError::Check(format!("no path to port {port} in {layout}")))?;
    expect_text(path, "node", "nodes/n1")?;
    let (nqn, nsid) = (path["nqn"].as_str(), path["nsid"].as_u64());
    let (Some(nqn), Some(1)) = (nqn, nsid) else {
        return Err(LabError::Check(format!("no NQN or namespace 1 in {path}")));
    };
    bench.guest.run(&format!(
        "nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {nqn} --nr-io-queues=2"
    ))?;
    Ok(nqn.to_owned())
}

/// Writes with checksums and reads back.
fn write(bench: &mut Bench) -> Result<()> {
    let disk = bench.disk(1)?;
    let job = verified(&disk, "4k", "32m", "");
    bench.guest.run_within(&job, WRITE_LIMIT).map(drop)
}

/// The other node's discovery subsystem names the node that serves the volume.
fn discover(bench: &mut Bench, nqn: &str, port: u16, other: u16) -> Result<()> {
    let log = bench.json(&format!("discover -t tcp -a {HOST_ADDRESS} -s {other}"))?;
    let records = log["records"].as_array().map_or(&[][..], Vec::as_slice);
    let service = port.to_string();
    let found = records
        .iter()
        .any(|record| record["subnqn"] == nqn && record["trsvcid"] == service.as_str());
    check(found, || {
        format!("the second node does not tell of {nqn} at port {port} of the first: {log}")
    })
}
