/* What of SPDK is declared. */
#include <spdk/env.h>
#include <spdk/env_dpdk.h>
#include <spdk/log.h>
#include <spdk/nvme.h>
#include <spdk/version.h>
