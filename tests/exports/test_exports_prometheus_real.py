"""A real Prometheus with the exported files reads a real Fairlead: does the alert fire there, and do the panels fill?

Fairlead runs in this process before emulated engines; one session gets all the requests, so one backend has them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from control_app import Running, engines, running
from exports_tools import PATIENCE, config
from promtool import program
from test_exports_grafana import DASHBOARD, queries, with_values

from fairlead.config.schema import Address
from fairlead.control.exports import prometheus_rules, prometheus_scrape

ALERT = "FairleadBackendTakesMostTraffic"
SHARE = {"threshold": "80%", "window": "3s", "min_requests": 5}
POLICY = {"name": "session", "header": "x-session"}
EMPTY = {
    "fairlead_workers", "fairlead_worker_restarts_total",  # one process is no fleet of workers
    "fairlead_backend_errors_total", "fairlead_retries_total", "fairlead_hedges_total", "fairlead_refused_total",
    "fairlead_hedges_refused_total", "fairlead_client_aborts_total", "fairlead_ejections_total",  # all goes well
    "fairlead_prefix_trust", "fairlead_config_version", "fairlead_config_last_reload_success",  # not in use there
}  # fmt: skip


@dataclass
class Seen:
    """What Prometheus said."""

    targets: list[Any] = field(default_factory=list)
    alert: Any = None
    inside: Any = None
    answers: dict[str, Any] = field(default_factory=dict)  # query -> what its API answered


class Prometheus:
    """A running one."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def ask(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            return await answer.json()


@contextlib.asynccontextmanager
async def prometheus(folder: Path) -> AsyncIterator[Prometheus]:
    """One that reads prometheus.yml of the folder, on a port that the system chooses."""
    command = [
        program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        "--web.listen-address=127.0.0.1:0",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said, port = b"", None
    while port is None:
        line = await process.stderr.readline()
        said += line
        assert line, said.decode()
        port = re.search(rb'msg="Listening on" address=127.0.0.1:(\d+)', line)
    drain = asyncio.create_task(process.stderr.read())
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{int(port[1])}"
            await _until_ready(f"{url}/-/ready", session)
            yield Prometheus(url, session)
    finally:
        process.kill()
        await process.wait()
        await drain


async def _until_ready(url: str, session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


async def keep_asking(fairlead: Running) -> None:
    """One client with one session: nothing to balance."""
    while True:
        status, _ = await fairlead.chat("m", x_session="always-the-same")
        assert status == 200
        await asyncio.sleep(0.02)


async def firing(prometheus: Prometheus) -> Any:
    """The alert, once it fires."""
    while True:
        told = await prometheus.ask("alerts")
        for alert in told["data"]["alerts"]:
            if alert["labels"]["alertname"] == ALERT and alert["state"] == "firing":
                return alert
        await asyncio.sleep(0.1)


async def scenario(folder: Path) -> Seen:
    seen = Seen()
    async with engines(2) as made:
        urls = [engine.url for engine in made]
        async with running(*urls, policy=POLICY, alerts={"share": SHARE}) as fairlead:
            parts = urlsplit(fairlead.admin)
            known = replace(config({"alerts": {"share": SHARE}}), admin=Address(parts.hostname or "", parts.port or 0))
            (folder / "prometheus.yml").write_text(prometheus_scrape.render(known), encoding="utf-8")
            (folder / "fairlead-rules.yml").write_text(prometheus_rules.render(known), encoding="utf-8")
            async with prometheus(folder) as real:
                client = asyncio.create_task(keep_asking(fairlead))
                try:
                    async with asyncio.timeout(PATIENCE):
                        seen.alert = await firing(real)
                    seen.targets = (await real.ask("targets"))["data"]["activeTargets"]
                    seen.inside = await fairlead.json("/api/alerts")
                    for query in queries():
                        seen.answers[query] = await real.ask("query", query=with_values(query).replace("[1m]", "[3s]"))
                finally:
                    client.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await client
    return seen


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return asyncio.run(scenario(tmp_path_factory.mktemp("prometheus")))


def test_prometheus_reads_fairlead_with_the_exported_file(seen: Seen) -> None:
    (target,) = seen.targets
    assert (target["health"], target["lastError"], target["labels"]["job"]) == ("up", "", "fairlead")


def test_the_alert_fires_there_for_the_backend_that_has_it_all(seen: Seen) -> None:
    assert seen.alert["labels"]["severity"] == "warning"
    assert re.fullmatch("b[01]", seen.alert["labels"]["backend"])
    assert float(seen.alert["value"]) > 0.8
    assert "gets 100% of the requests" in seen.alert["annotations"]["summary"]


def test_fairlead_itself_says_the_same(seen: Seen) -> None:
    assert f'"{seen.alert["labels"]["backend"]}"' in str(seen.inside).replace("'", '"')


@pytest.mark.parametrize("query", queries())
def test_every_query_of_the_dashboard_is_answered(seen: Seen, query: str) -> None:
    answer = seen.answers[query]
    assert answer["status"] == "success", answer
    names = set(re.findall(r"\bfairlead_\w+", query))
    if not names & EMPTY:
        assert answer["data"]["result"], "nothing came of it"


def test_the_share_panel_shows_who_has_it_all(seen: Seen) -> None:
    (panel,) = [each for each in DASHBOARD["panels"] if each["title"] == "Share of requests"]
    result = seen.answers[panel["targets"][0]["expr"]]["data"]["result"]
    shares = {each["metric"]["backend"]: float(each["value"][1]) for each in result}
    assert shares[seen.alert["labels"]["backend"]] == pytest.approx(1.0)
