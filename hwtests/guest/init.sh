#!/bin/busybox sh
# The guest's first program: mounts, loads what every test needs, brings up the network, then runs what the host
# sends over the virtio port. Each request is a line `id limit_s script(base64)`; each answer is a
# line `id status output(base64)`. Requests run side by side.

/bin/busybox mkdir -p /proc /sys /dev /run/lab /tmp /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/lab/bin:/bin HOME=/ TERM=dumb
exec </dev/null >/dev/console 2>&1

load crc32c_intel virtio_net nvme_tcp
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip addr add fec0::15/64 dev eth0 nodad 2>/dev/null || ip addr add fec0::15/64 dev eth0
ip route add default via 10.0.2.2

job() {
    echo "$3" | base64 -d >"/run/lab/$1.sh"
    timeout -s KILL "$2" sh "/run/lab/$1.sh" >"/run/lab/$1.out" 2>&1 </dev/null
    status=$?
    # What the host reads is bounded, so that a flood of messages cannot clog the port.
    {
        flock 9
        printf '%s %s ' "$1" "$status"
        tail -c 262144 "/run/lab/$1.out" | base64 | tr -d '\n'
        echo
    } >&3 9>/run/lab/port.lock
    rm -f "/run/lab/$1.sh" "/run/lab/$1.out"
}

if grep -q lab.shell /proc/cmdline; then
    echo "lab: a shell in the guest; the host is 10.0.2.2; leave with 'poweroff -f'"
    setsid cttyhack sh
    poweroff -f
fi

port=
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    for port in /dev/vport*p1; do [ -c "$port" ] && break 2; done
    sleep 0.2
done
exec 3<>"$port"
echo "lab: ready"
while true; do
    # The port reads as ended until the host has connected.
    if read -r id limit script <&3; then
        job "$id" "$limit" "$script" &
    else
        sleep 0.1
    fi
done
