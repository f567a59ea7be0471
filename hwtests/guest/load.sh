#!/bin/busybox sh
# Loads each named module after what it depends on; loading one twice is fine.
for module in "$@"; do
    while read -r file; do
        name=${file%.ko}
        [ -d "/sys/module/$(echo "$name" | tr - _)" ] && continue
        insmod "/lab/modules/$file" || { echo "lab: module $file did not load"; exit 1; }
    done <"/lab/order/$module"
done
