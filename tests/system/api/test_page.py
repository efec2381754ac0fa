"""The page at `/`, as a browser shows it."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.residency import PAGE, pinned
from tests.support.capabilities.manifests import flip
from tests.support.capabilities.tuning import SYSCTLS, tuned
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import drop, write_file
from tests.support.servers.browser import Browser, Page, running_browser

MIB = 1 << 20
NAME = "net.core.somaxconn"
# Of each element with text of its own: the contrast of its colour with what lies behind it, by the
# formula of WCAG 2.1. A canvas turns any colour of CSS into red, green and blue.
_CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const probe = document.body.appendChild(document.createElement("p"));
  probe.style.backgroundColor = "Canvas";
  const page = getComputedStyle(probe).backgroundColor;
  probe.remove();
  const found = [];
  for (const one of document.body.querySelectorAll("*")) {
    const texts = [...one.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const text = texts.map((node) => node.data.trim()).join("");
    if (!text || !one.checkVisibility() || one.tagName === "SCRIPT") continue;
    const behind = [page];
    for (let at = one, own = []; ; at = at.parentElement) {
      if (!at) { behind.push(...own.reverse()); break; }
      own.push(getComputedStyle(at).backgroundColor);
    }
    const [a, b] = [paint([...behind, getComputedStyle(one).color]), paint(behind)].map(luminance);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text]);
  }
  return { page: paint([page]), found };
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory() as directory, running_browser(Path(directory)) as browser_:
        yield browser_


@pytest.fixture
def node(daemon: Daemon) -> Daemon:
    """Give a daemon with files of which some are in memory, and operations that have ended."""
    for number in range(3):
        write_file(daemon.root / "cassandra" / f"{number}.db", 8 * MIB, seed=number)
    write_file(daemon.root / "commitlog" / "1.log", 8 * MIB)
    write_file(daemon.root / "a-secret-name", MIB)
    for number in range(2):
        drop(daemon.root / "cassandra" / f"{number}.db")
    daemon.run("/v1/pagecache/dumps", {})
    return daemon


def show(page: Page, node: Daemon) -> None:
    """Give a page that asks for a token one that may read."""
    page.until("!document.getElementById('login').hidden")
    page.type("#token", node.tokens.secrets["read"])


def shown(browser: Browser, node: Daemon, **window: Any) -> Page:
    """Open the page with a token that may read, and wait until everything is there."""
    page = browser.open(node.url, **window)
    show(page, node)
    page.until("document.querySelector('.tape') && !document.getElementById('node-part').hidden")
    return page


def looks(page: Page, count: int) -> None:
    """Wait until the page has polled the node `count` times more."""
    now = int(page.evaluate("document.body.dataset.looked || 0"))
    page.until(f"document.body.dataset.looked >= {now + count}")


def check_harmless(page: Page, node: Daemon) -> None:
    """Nothing was asked of others, nothing was changed, and nothing broke."""
    assert page.requested()
    assert all(url.startswith((f"{node.url}/", "data:")) for url in page.requested())
    methods = {event["request"]["method"] for event in page.reported("Network.requestWillBeSent")}
    assert methods == {"GET"}
    # The only question without a token.
    expected = re.compile(r"401 .*/v1/operations")
    assert [complaint for complaint in page.complaints() if not expected.search(complaint)] == []


def running_share(page: Page) -> float:
    """Return how far the bar of the only running operation reaches, in percent."""
    width = page.evaluate("document.querySelector('#running .bar > div')?.style.width || '0%'")
    return float(width.removesuffix("%"))


def test_it_shows_the_node_what_runs_and_what_is_in_memory(browser: Browser, node: Daemon) -> None:
    slow = node.start("/v1/manifests", {"full": True, "bytes_per_second": 2 * MIB})
    page = shown(browser, node)

    reported = page.text()
    assert socket.gethostname() in page.evaluate("document.title")
    assert node.http.get("/v1/node").json()["boot_id"] in reported
    assert "pagecache.dump" in page.text("#recent")
    assert "succeeded" in page.text("#recent")
    assert slow["id"] in page.text("#running")

    page.until("document.querySelector('#running .bar > div')?.style.width")
    before = running_share(page)
    page.evaluate("document.querySelector('#running .bar').seen = 'yes'")
    looks(page, 2)
    assert before < running_share(page) < 100
    # It is the same bar, so that it moves rather than jumps.
    assert page.evaluate("document.querySelector('#running .bar').seen") == "yes"

    # One tile a directory, and one for the file that is in none.
    tiles = page.evaluate(
        "[...document.querySelectorAll('.tile')].map((one) => [one.innerText.trim(), "
        "one.getBoundingClientRect().width, "
        "parseFloat(one.querySelector('.box > div').style.height)])"
    )
    (data, widest, share), *_ = tiles
    assert [tile[0] for tile in tiles] == ["cassandra", "commitlog", "other files"]
    assert data == "cassandra"
    assert widest == pytest.approx(3 * tiles[1][1], rel=0.02)
    assert share == pytest.approx(100 / 3, abs=0.1)
    assert [tile[2] for tile in tiles[1:]] == [100, 100]

    check_harmless(page, node)
    node.http.post(f"/v1/operations/{slow['id']}/cancel")
    node.finish(slow)
    page.until("document.getElementById('running').innerText.includes('Nothing runs')")
    assert "cancelled" in page.text("#recent")


def test_a_map_shows_what_is_in_memory_of_each_store(browser: Browser, node: Daemon) -> None:
    names = {"MANIFEST-000001": 1, "000002.sst": 6, "000003.log": 3}
    with ExitStack() as stack:
        for name, pages in names.items():
            path = write_file(node.root / "<b>rocks</b>" / name, 8 * PAGE)
            drop(path)
            stack.enter_context(pinned(path, range(pages)))
        page = shown(browser, node)
        page.until("document.querySelector('.map')")
        leaves = (
            "[...document.querySelectorAll('.leaf')].map((one) => { const box = "
            "one.getBoundingClientRect(); return [one.title, box.width * box.height]; })"
        )
        areas = dict(page.evaluate(leaves))
        (sst,) = (area for title, area in areas.items() if title.startswith("sst (rocksdb): 24"))
        (log,) = (area for title, area in areas.items() if title.startswith("log (rocksdb): 12"))
        assert sst == pytest.approx(2 * log, rel=0.05)
        (other,) = (title for title in areas if title.startswith("other files: "))
        assert re.search(r"of all that is .* of 33\.0 MiB in 5 files", other)
        # By the keyboard alone: another grouping, and what a small area is.
        page.evaluate("document.querySelector('[data-by=table]').focus()")
        page.type("[data-by=table]", "")
        page.until("document.querySelector('.map').dataset.key === 'table'")
        page.evaluate("document.querySelector('.leaf[title*=rocks]').focus()")
        assert page.text("#pointed").startswith("<b>rocks</b> (rocksdb): 40.0 KiB in memory")
        boxes = page.evaluate(
            "(() => { const map = document.querySelector('.map').getBoundingClientRect();"
            "return [...document.querySelectorAll('.leaf')].map((one) => { const box = "
            "one.getBoundingClientRect(); return box.right <= map.right + 1 && box.left >= "
            "map.left - 1 && box.bottom <= map.bottom + 1; }); })()"
        )
        assert len(boxes) == 2
        assert all(boxes)
        # It stays when it is read again.
        looks(page, 1)
        assert page.evaluate("document.activeElement.className").startswith("leaf")
    check_harmless(page, node)


def test_history_is_a_line_with_axes(browser: Browser, node: Daemon) -> None:
    node.run("/v1/pagecache/dumps", {})
    page = shown(browser, node)
    page.until("document.querySelectorAll('.plot circle').length === 2")
    assert "from 2 dumps" in page.text("#history")
    texts = page.evaluate("[...document.querySelectorAll('.plot text')].map((t) => t.textContent)")
    assert texts[0] == "0 B"
    assert all(re.fullmatch(r"[\d.]+ (B|KiB|MiB|GiB)", text) for text in texts[:3])
    assert all(re.fullmatch(r"\d\d:\d\d", text) for text in texts[3:])
    assert str(node.root) in page.evaluate("document.querySelector('.plot title').textContent")
    check_harmless(page, node)


def test_a_check_that_found_differences_is_red_and_what_is_partial_amber(
    browser: Browser, node: Daemon
) -> None:
    node.run("/v1/manifests", {"full": True})
    flip(node.root / "commitlog" / "1.log", 5000)
    bad = node.finish(node.start("/v1/manifests/latest/verifications", {}))
    for number in range(2):
        drop(node.root / "cassandra" / f"{number}.db")
    (node.root / "commitlog" / "1.log").unlink()
    partial = node.finish(node.start("/v1/pagecache/loads", {}))
    good = node.finish(node.start("/v1/pagecache/dumps", {}))
    page = shown(browser, node)

    def verdict(operation: dict[str, Any]) -> list[str]:
        found: list[str] = page.evaluate(
            "(() => { const row = [...document.querySelectorAll('#recent tr')]"
            f".find((one) => one.innerText.includes('{operation['id']}'));"
            "const cell = row.children[2]; const root = document.documentElement;"
            "const of = (name) => { const probe = document.createElement('i');"
            "probe.style.color = `var(--${name})`; root.append(probe);"
            "const color = getComputedStyle(probe).color; probe.remove(); return color; };"
            "const shown = getComputedStyle(cell).color;"
            "const name = ['good', 'warn', 'bad'].find((one) => of(one) === shown);"
            "return [cell.innerText, name]; })()"
        )
        return found

    assert verdict(bad) == ["differs", "bad"]
    assert verdict(partial) == ["partial", "warn"]
    assert verdict(good) == ["succeeded", "good"]
    check_harmless(page, node)


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_on_a_telephone_and_in_the_dark(
    browser: Browser, node: Daemon, *, dark: bool
) -> None:
    write_file(node.root / ("long-name" * 20), MIB)
    write_file(node.root / ("directory-with-a-long-name" * 5) / "file", MIB)
    node.finish(node.start("/v1/pagecache/evictions", {"paths": [str(node.root)]}))
    for number, kind in enumerate(("Data", "Index", "Filter", "Summary", "Statistics", "CRC")):
        write_file(node.root / "ks" / "table" / f"nb-1-big-{kind}.db", (6 - number) * MIB)
    slow = node.start("/v1/manifests", {"full": True, "bytes_per_second": 2 * MIB})
    page = shown(browser, node, width=400, dark=dark)
    page.until("document.querySelector('#running .bar') && document.querySelector('.leaf')")
    page.until("document.querySelector('.plot')")

    wide = page.evaluate(
        "[...document.querySelectorAll('body *')]"
        ".filter((one) => one.getBoundingClientRect().right > innerWidth)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    seen = page.evaluate(_CONTRASTS)
    assert (sum(seen["page"]) < 128) == dark
    assert len(seen["found"]) > 30
    assert [pair for pair in seen["found"] if pair[0] < 4.5] == []
    check_harmless(page, node)
    node.http.post(f"/v1/operations/{slow['id']}/cancel")


def test_without_a_token_it_asks_for_one_and_tells_no_names(browser: Browser, node: Daemon) -> None:
    slow = node.start("/v1/manifests", {"full": True, "bytes_per_second": 2 * MIB})
    page = browser.open(node.url)
    page.until("!document.getElementById('login').hidden")
    looks(page, 2)
    document = page.evaluate("document.documentElement.outerHTML")
    boot = node.http.get("/v1/node").json()["boot_id"]
    for secret in ("cassandra", "a-secret-name", slow["id"], boot, f"<span>{socket.gethostname()}"):
        assert secret not in document
    assert page.text("#host") == ""
    # Each refusal is a line in the daemon's log and counts against the address: one is enough.
    asked = [url for url in page.requested() if "/v1/" in url]
    assert asked == [f"{node.url}/v1/operations?limit=20"]

    page.type("#token", "hf_not-one")
    page.until("document.getElementById('refused').innerText.includes('not accepted')")
    looks(page, 2)
    assert page.evaluate("sessionStorage.getItem('holdfast-token')") is None
    assert "cassandra" not in page.evaluate("document.documentElement.outerHTML")
    assert node.log.count("was not let in") == 2  # without one, and with the wrong one

    page.type("#token", node.tokens.secrets["read"])
    page.until("document.querySelector('.tape')")
    assert page.text("#refused") == ""
    node.cli("token", "revoke", "test-read", "--tokens-file", node.tokens.file)
    page.until("!document.getElementById('login').hidden")
    assert "cassandra" not in page.evaluate("document.documentElement.outerHTML")
    node.http.post(f"/v1/operations/{slow['id']}/cancel")


def test_it_says_so_when_the_daemon_is_gone_and_comes_back(browser: Browser, node: Daemon) -> None:
    page = shown(browser, node)
    node.stop()
    page.until("document.getElementById('ready').innerText === 'no answer'")
    node.restart()
    page.until("document.getElementById('ready').innerText === 'ready'")
    looks(page, 1)
    assert "pagecache.dump" in page.text("#recent")


def test_it_says_nothing_of_re_imaging_where_nothing_is_staged(
    browser: Browser, node: Daemon
) -> None:
    assert node.http.get("/v1/reimage").json()["state"] == "idle"
    page = shown(browser, node)
    looks(page, 1)
    assert page.evaluate("document.getElementById('reimage-part').hidden") is True
    check_harmless(page, node)


def test_an_operation_can_be_opened(browser: Browser, node: Daemon) -> None:
    page = shown(browser, node)
    page.until("document.querySelector('#recent a')")
    (operation,) = node.http.get("/v1/operations").json()["operations"]
    assert page.evaluate("document.querySelector('#recent a').innerText") == operation["id"]
    page.evaluate("document.querySelector('#recent a').click()")
    page.until("document.getElementById('operation').innerText.includes('files_scanned')")
    assert operation["id"] in page.text("#operation-part")
    page.evaluate("document.querySelector('#operation-part a').click()")
    page.until("document.getElementById('operation-part').hidden")
    check_harmless(page, node)


def test_it_has_landmarks_and_leads_further(browser: Browser, node: Daemon) -> None:
    page = shown(browser, node)
    page.until("!document.getElementById('records-part').hidden")
    assert re.search(r"last dump\s+just now", page.text("#records"))
    assert re.search(r"last manifest\s+none", page.text("#records"))
    outside = "document.querySelectorAll('body > :not(header, main, footer, script)').length"
    assert page.evaluate(outside) == 0
    assert page.evaluate("document.querySelectorAll('main').length") == 1
    links = page.evaluate(
        "[...document.querySelectorAll('footer a')].map((a) => a.getAttribute('href')).join(' ')"
    )
    for target in ("/openapi.json", "/metrics", "#runbook"):
        assert target in links
    assert "runbook.md" not in page.text("main")
    page.evaluate("[...document.querySelectorAll('footer a')].at(-1).click()")
    page.until("document.querySelector('main').innerText.includes('runbook.md')")
    page.evaluate("document.getElementById('forget').click()")
    page.until("document.getElementById('login') && !document.getElementById('login').hidden")
    assert page.evaluate("sessionStorage.getItem('holdfast-token')") is None


def test_it_shows_how_far_re_imaging_is(browser: Browser, node: Daemon) -> None:
    page = browser.open(node.url)
    # As of a machine on its way, which this one is not.
    page.replace(
        "/v1/reimage",
        {
            "state": "armed",
            "reason": None,
            "operation": "01KAQ8M4ZD5S0V6Y3N2B7C9XEF",
            "blocked": ["There is no <b>way</b>."],
            "image": {"name": "base", "image_version": "2026-11-24"},
            "target": {
                "name": "nvme0n1",
                "serial": "vol0123",
                "model": "Amazon Elastic Block Store",
                "size_bytes": 8 << 30,
            },
        },
    )
    show(page, node)
    page.until("document.getElementById('reimage').innerText.includes('armed')")
    text = page.text("#reimage")
    for part in ("vol0123", "Amazon Elastic Block Store", "8.00 GiB", "base 2026-11-24"):
        assert part in text
    assert "There is no <b>way</b>." in text
    check_harmless(page, node)


def test_it_shows_transfers(browser: Browser, node: Daemon) -> None:
    page = shown(browser, node)
    looks(page, 1)
    assert page.evaluate("document.getElementById('transfers-part').hidden") is True
    offer = {"state": "in_use", "path": "/mnt/data/<b>db</b>", "sent_bytes": 5 << 20}
    into = {"path": "/mnt/data/pg", "source": "10.0.0.7:9919", "source_path": "/mnt/data/old"}
    for path, document, reported in (
        (
            "/v1/transfers/offers",
            {"offers": [offer | {"connections": 8}]},
            "in use /mnt/data/<b>db</b>, 5.00 MiB sent, 8 connections",
        ),
        (
            "/v1/transfers",
            {"transfers": [into | {"complete": True}]},
            "complete /mnt/data/pg from 10.0.0.7:9919 /mnt/data/old",
        ),
    ):
        page = browser.open(node.url)
        page.replace(path, document)
        show(page, node)
        page.until("!document.getElementById('transfers-part').hidden")
        assert reported in page.text("#transfers")
        check_harmless(page, node)


def test_it_shows_drift(start_daemon: Callable[..., Daemon], disk_dir: Path) -> None:
    with tuned(start_daemon, disk_dir) as node:
        node.profile("mine", SYSCTLS)
        node.apply("mine")
        node.ns.set_sysctl(NAME, "7")
        profile = disk_dir / "browser"
        profile.mkdir()
        with running_browser(profile, node.ns.wrapper) as browser:
            page = browser.open(node.daemon.url)
            show(page, node.daemon)
            page.until("document.querySelector('#tuning table')")
            assert "1 drifted" in page.text("#tuning")
            assert f"{NAME}" in page.text("#tuning table")
            assert "is 7, should be 4321" in page.text("#tuning table")
            node.ns.set_sysctl(NAME, "4321")
            page.until("document.getElementById('tuning').innerText.includes('none drifted')")
