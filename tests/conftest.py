"""Fixtures for all tests come from `tests/support`."""

import os
import signal

from hypothesis import HealthCheck, settings

# A shell starts what it runs in the background with SIGINT ignored, and so would everything that tests start;
# those of Ctrl-C need the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# gRPC's own handlers around fork(2) hold up what tests start from a process in which it has been imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# How long an example takes is the machine's business: a crowded one is no reason to fail.
settings.register_profile("crowded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("crowded")

pytest_plugins = [
    "tests.support.mount",
    "tests.support.s3server",
    "tests.support.faultproxy",
    "tests.support.stores",
]
