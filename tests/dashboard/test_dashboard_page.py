"""The dashboard in a real browser: what it shows, what it lets people do, and who can read it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from control_app import Running, engines, running
from dashboard_browser import PATIENCE, Page, browser, needs_browser
from prometheus_client.parser import text_string_to_metric_families

pytestmark = needs_browser

TOKEN = "correct-horse-battery-staple"
NASTY = "<img src=x onerror=\"document.title='owned'\">"
LIVE = "document.getElementById('link')?.dataset.state === 'live'"


def row(id: str) -> str:
    return f"document.querySelector('#rows tr[data-id={id}]')"


async def shown(page: Page, fairlead: Running) -> None:
    await page.open(f"{fairlead.admin}/")
    await page.until(LIVE)


async def cells(page: Page, id: str) -> dict[str, str]:
    """The numbers of a backend's row, by the heading of their column."""
    told = await page.ask(
        f"[...{row(id)}.querySelectorAll('td.fl-number')]"
        ".map((cell) => [cell.children[0].textContent, cell.children[1].textContent])"
    )
    return dict(told)


async def metrics(fairlead: Running) -> dict[tuple[str, str], float]:
    """Of each backend."""
    page = (await fairlead.get("/metrics"))[1].decode()
    return {
        (sample.name, sample.labels["backend"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if set(sample.labels) == {"backend"}
    }


async def disagreement(page: Page, fairlead: Running) -> list[str]:
    """What of the page is not what the metrics say, as sentences."""
    told, found = await metrics(fairlead), []
    for id in ("b0", "b1"):
        seen = await cells(page, id)
        share = (await fairlead.json(f"/api/backends/{id}"))["share"]
        said = {
            "In flight": f"{told['fairlead_inflight_requests', id]:g}",
            "Queue": f"{told['fairlead_engine_waiting', id]:g}",
            "Speed": f"{told['fairlead_backend_capacity', id]:.2f}×",
        }
        found += [f"{id} {name}: {seen[name]}, not {text}" for name, text in said.items() if seen[name] != text]
        if abs(float(seen["Requests"].rstrip("%")) - 100 * share) > 1:
            found.append(f"{id} Requests: {seen['Requests']}, not {share:.0%}")
        is_up = await page.ask(f"{row(id)}.dataset.state === 'up'")
        if is_up != bool(told["fairlead_backend_up", id]):
            found.append(f"{id} up: {is_up}")
    return found


def test_what_it_shows_is_what_the_metrics_say() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url) as fairlead, browser() as page:
            for _ in range(8):
                await fairlead.chat("m")
            backend = fairlead.app.balancer.backends["b0"]
            await shown(page, fairlead)
            backend.prompt_pending += 12_345  # held still, as nothing else runs
            backend.inflight += 3
            async with asyncio.timeout(PATIENCE):
                while differences := await disagreement(page, fairlead):  # learned speeds settle in the first seconds
                    print(differences)
                    await asyncio.sleep(0.1)
            assert (await cells(page, "b0"))["In flight"] == "3"
            assert (await cells(page, "b0"))["Pending"] == "12.3k"
            assert await page.ask("document.getElementById('headline').textContent") == "All 2 backends are well"
            backend.prompt_pending -= 12_345
            backend.inflight -= 3
            assert page.complaints == []

    asyncio.run(body())


def test_a_backend_that_dies_turns_red_with_the_next_event_and_green_again() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url) as fairlead, browser() as page:
            await shown(page, fairlead)
            calm = await page.ask(f"getComputedStyle({row('b1')}).backgroundColor")
            await two.stop()
            await fairlead.until("down", lambda: not fairlead.app.balancer.backends["b1"].up)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await page.until(f"{row('b1')}.dataset.state === 'down'")
            print(f"red after {loop.time() - began:.2f} s")
            assert await page.ask(f"getComputedStyle({row('b1')}).backgroundColor") != calm
            assert "connection refused" in await page.ask("document.getElementById('problems').textContent")
            assert await page.ask("document.getElementById('status').dataset.level") == "bad"
            assert (await page.ask("document.title")).startswith("✗ Fairlead: 1 of 2 backends")
            await two.start()
            await page.until(f"{row('b1')}.dataset.state === 'up'")
            assert await page.ask("document.getElementById('problems').childElementCount") == 0
            assert page.complaints == []

    asyncio.run(body())


def test_an_ejected_backend_is_red_and_a_standing_alert_is_told() -> None:
    async def body() -> None:
        async with engines(2) as (one, two):
            share = {"share": {"window": "1s", "min_requests": 5}}
            async with running(one.url, two.url, alerts=share) as fairlead, browser() as page:
                await shown(page, fairlead)
                backends, now = fairlead.app.balancer.backends, fairlead.app.clock()
                backends["b0"].passive.ejected_until = now + 1000.0
                backends["b1"].contested += 100
                await page.until(f"{row('b0')}.dataset.state === 'ejected'")
                backends["b0"].passive.ejected_until = 0.0
                fairlead.app.alerting.look(fairlead.app.facts(now), now - 100)
                backends["b1"].placed += 100
                backends["b1"].contested += 100
                await page.until("document.getElementById('problems').textContent.includes('while another healthy')")
                assert await page.ask("document.getElementById('problems').getAttribute('role')") == "alert"

    asyncio.run(body())


def test_without_a_token_there_is_nothing_to_do_but_look() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead, browser() as page:
            await shown(page, fairlead)
            assert await page.ask("document.getElementById('sign').hidden")
            assert await visible_buttons(page) == {"Pause", "Explain"}

    asyncio.run(body())


async def visible_buttons(page: Page) -> set[str]:
    """Those that do something, without the charts' own."""
    told = await page.ask(
        "[...document.querySelectorAll('button')].filter((b) => b.checkVisibility() && !b.closest('.fl-legend, table'))"
        ".map((b) => b.textContent)"
    )
    return set(told)


def test_with_the_token_people_drain_weigh_and_switch(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN, "utf-8")

    async def sign_in(page: Page, token: str) -> None:
        await page.ask("document.getElementById('sign').click()")
        await page.ask(
            f"(document.getElementById('token').value = '{token}', "
            "document.querySelector('#dialog form').requestSubmit())"
        )

    async def press(page: Page, name: str) -> None:
        await page.ask(
            f"[...document.querySelectorAll('dialog button')].find((b) => b.textContent === '{name}').click()"
        )

    async def body() -> None:
        options: dict[str, Any] = {"admin_token_file": str(tmp_path / "token"), "policy": "random"}
        async with engines(2) as (one, two), running(one.url, two.url, **options) as fairlead, browser() as page:
            balancer = fairlead.app.balancer
            await shown(page, fairlead)
            assert await visible_buttons(page) == {"Pause", "Explain", "Sign in"}
            assert not await page.ask(f"{row('b0')}.querySelector('.act').checkVisibility()")
            await sign_in(page, "not-the-right-token")
            await page.until("document.querySelector('dialog .refused')?.textContent === 'this is not the admin token'")
            await sign_in(page, TOKEN)
            await page.until(f"{row('b0')}.querySelector('.act').checkVisibility()")
            await page.ask(f"{row('b0')}.querySelector('.act button').click()")
            await press(page, "Drain")
            await page.until(f"{row('b0')}.dataset.state === 'draining'")
            assert balancer.backends["b0"].draining
            await press(page, "Enable")
            await page.until(f"{row('b0')}.dataset.state === 'up'")
            for text, outcome in (("2.5", "done"), ("-1", "refused")):
                await page.ask(
                    f"(document.getElementById('weight').value = '{text}', "
                    "document.querySelector('dialog form').requestSubmit())"
                )
                await page.until(f"document.querySelector('dialog .{outcome}') !== null")
            assert "expected a number from" in await page.ask("document.querySelector('dialog .refused').textContent")
            assert balancer.backends["b0"].weight == 2.5
            await press(page, "Close")
            await page.ask(
                "(document.getElementById('policy-choice').value = 'latency', "
                "document.querySelector('#policy form').requestSubmit())"
            )
            await page.until("document.getElementById('about').textContent.includes('latency')")
            assert balancer.policy.name == "latency"
            await page.ask("document.getElementById('sign').click()")
            await page.until(f"!{row('b0')}.querySelector('.act').checkVisibility()")
            assert [told for told in page.complaints if "400" not in told] == []  # of the wrong weight

    asyncio.run(body())


def test_open_to_other_machines_it_shows_nothing_before_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN, "utf-8")

    async def body() -> None:
        options: dict[str, Any] = {"admin_token_file": str(tmp_path / "token"), "admin": "0.0.0.0:0"}
        async with engines(1) as (one,), running(one.url, **options) as fairlead, browser() as page:
            await page.open(f"{fairlead.admin.replace('0.0.0.0', '127.0.0.1')}/")
            await page.until("document.getElementById('token')?.checkVisibility()")
            assert await page.ask("document.querySelectorAll('#rows tr').length") == 0
            await page.ask(
                f"(document.getElementById('token').value = '{TOKEN}', "
                "document.querySelector('#dialog form').requestSubmit())"
            )
            await page.until(f"{LIVE} && {row('b0')} !== null")

    asyncio.run(body())


def test_names_from_outside_are_text_and_why_is_told() -> None:
    async def body() -> None:
        async with engines(2, NASTY) as (one, two), running(one.url, two.url) as fairlead, browser() as page:
            _, id = await fairlead.chat(NASTY, x_request_id="<b>mine</b>")
            await fairlead.chat("<script>alert(1)</script>")
            await shown(page, fairlead)
            await page.until("document.querySelectorAll('#decision-rows tr').length === 2")
            assert NASTY in await page.ask("document.getElementById('decision-rows').textContent")
            assert NASTY in await page.ask(f"{row('b0')}.textContent")
            assert await page.ask("document.querySelectorAll('main img, main script, main b').length") == 0
            await page.ask("document.querySelector('#decision-rows tr:nth-child(2) button').click()")
            await page.until("document.querySelectorAll('#why tbody tr').length === 2")
            why = await page.ask("document.getElementById('why').innerText")
            answer = await fairlead.json(f"/api/explain/{id.replace('/', '%2F')}")
            assert answer["explanation"] in why
            for term in answer["decision"]["candidates"][0]["terms"]:
                assert term.removesuffix(", s").lower() in why.lower()
            bars = await page.ask("[...document.querySelectorAll('#why .fill')].map((b) => parseFloat(b.style.width))")
            assert max(bars) == 100.0
            assert await page.ask("document.activeElement.id") == "why"
            assert (await page.ask("document.title")) == "Fairlead: All 2 backends are well"
            assert page.complaints == []

    asyncio.run(body())


def test_a_lost_line_is_said_and_the_history_is_there_again_after_a_reload() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead, browser() as page:
            await shown(page, fairlead)
            drawn = "document.querySelectorAll('#charts .fl-line').length > 0"
            await page.until(drawn)
            await page.open(f"{fairlead.admin}/?again")
            await page.until(f"location.search === '?again' && {LIVE} && {drawn}")
            assert page.complaints == []
            await fairlead.app.stop(drain=0.0)
            await page.until(
                "document.getElementById('link').textContent.startsWith('no connection, what stands here is of')"
            )

    asyncio.run(body())


# --- who can read it ------------------------------------------------------------------------------------------------

AUDIT = (Path(__file__).parent / "audit.js").read_text("utf-8")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_has_names_roles_and_contrast_and_fits(width: int, dark: bool) -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, "http://127.0.0.1:1") as fairlead:
            async with browser(width, dark=dark) as page:
                await fairlead.chat("m")
                await fairlead.chat("unknown-model-with-quite-a-long-name-that-does-not-fit-anywhere")
                await shown(page, fairlead)
                await page.until("document.querySelectorAll('#decision-rows tr').length === 2")
                await page.ask("document.querySelector('#decision-rows tr:nth-child(2) button').click()")
                await page.until("document.querySelectorAll('#why tbody tr').length === 2")
                found = await page.ask(AUDIT)
                assert (found["unnamed"], found["pale"], found["jumps"]) == ([], [], [])
                assert (found["mains"], found["ones"], found["ids"], found["heads"]) == (1, 1, [], 0)
                assert found["wide"] == 0
                assert len(set(found["cells"])) == 1  # every row has a cell for every heading

    asyncio.run(body())


def test_by_keyboard_one_comes_to_the_backends_first_and_then_everywhere() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead, browser() as page:
            await fairlead.chat("m")
            await shown(page, fairlead)
            await page.until("document.querySelectorAll('#decision-rows tr').length === 1")
            stops = []
            for _ in range(60):
                await page.press("Tab", 9)
                stops.append(
                    await page.ask("document.activeElement.id || document.activeElement.textContent.slice(0, 40)")
                )
                if re.match("/metrics", str(stops[-1])):
                    break
            assert stops[0] == "To the backends"
            assert {"pause", "wanted", "Explain", "/metrics"} <= set(stops)
            assert (
                await page.ask(
                    'document.querySelectorAll(\'[tabindex]:not([tabindex="0"]):not([tabindex="-1"])\').length'
                )
                == 0
            )

    asyncio.run(body())
