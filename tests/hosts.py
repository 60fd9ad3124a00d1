"""Two hosts on this machine: network namespaces with addresses of their own, and a link that can be cut."""

import os
import shutil
import signal
import subprocess
import sys
from types import TracebackType

PORT = 29400


def cannot() -> str:
    """Why there cannot be such hosts here; "" if there can."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "needs Debian's iproute2 and util-linux"
    name = f"plaudit-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"needs the right to make network namespaces: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


class Two:
    """A context with two hosts. They have the files of this machine, and names and addresses of their own."""

    def __init__(self) -> None:
        self.hosts = [f"plaudit-{letter}-{os.getpid()}" for letter in "ab"]
        self.addresses = dict(zip(self.hosts, ("10.77.0.1", "10.77.0.2"), strict=True))

    def __enter__(self) -> "Two":
        for host in self.hosts:
            _ip("netns", "add", host)
        first, second = self.hosts
        _ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
        for host, address in self.addresses.items():
            _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", host, "link", "set", link, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            inside = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False)
            for pid in map(int, inside.stdout.split()):
                os.kill(pid, signal.SIGKILL)
            _ip("netns", "del", host)

    def cut(self) -> None:
        """Cut the link between the hosts: what is sent is lost, and nobody is told."""
        _ip("-n", self.hosts[1], "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Connect the hosts again."""
        _ip("-n", self.hosts[1], "link", "set", "eth0", "up")

    def torchrun(self, host: str, processes: int) -> list[str]:
        """The words that start torchrun on one of the hosts, for a job on both."""
        number = self.hosts.index(host)
        inside = ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh"]
        return [
            *inside, "env", "GLOO_SOCKET_IFNAME=eth0", sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--nproc-per-node", str(processes), "--rdzv-backend", "c10d", "--rdzv-id", "two-hosts",
            "--rdzv-endpoint", f"{self.addresses[self.hosts[0]]}:{PORT}", "--local-addr", self.addresses[host],
            "--rdzv-conf", f"is_host={'false' if number else 'true'}",
        ]  # fmt: skip


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
