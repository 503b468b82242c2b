"""People at the desk, with real browsers on a real system: one loop for all tests, each with events of its own.

With COUNTERPOINT_TEST_PICTURES=FOLDER the pictures of the pages are kept there: `make pictures` makes the README's.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from streams import opening
from streams.core.events import CORRECT, LEARNED, RETRACTED, Features, Feedback, Input, Outcome
from streams.demos import digits
from streams.desk.board import now_ms
from streams.desk.people import People
from streams.desk.store import open_store
from tests.conftest import Kafka
from tests.e2e.system import System, await_that

CHROMIUM = "/usr/bin/chromium"
TOOL = Path(__file__).parents[1] / "examples" / "tool.py"
HERE_ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
DIGITS = """
from river import drift, linear_model, preprocessing
from streams import Loop, review

loop = Loop(
    name={name!r},
    task="multiclass",
    model=preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    classes=tuple(range(10)),
    review=review.Everything() | review.Drifting(drift.ADWIN(), share=0.5),
)
"""
PASSWORD = "correct horse"
EVIL = "<script>alert('x')</script>\"/../'"
MANY, REVIEWED = 64, 30
WAVES, WAVE, TURNED = 16, 50, range(8, 12)
"""Lessons for the pictures: in some waves the images are turned, and the model has to learn anew."""
TALLEST, ALL_OF_QUALITY = 1_500, 2_200
"""Pictures are so high at most: what is below says no more, but for the tables of the quality page."""
SHOWN = "document.querySelector('.item:not([hidden])')?.dataset.event"
TIMED = """
() => {
  window.took = [];
  let pressed, event;
  addEventListener("keydown", () => {
    pressed = performance.now();
    event = %s;
  }, true);
  new MutationObserver(() => {
    const now = %s;
    if (event && now && now !== event) { window.took.push(performance.now() - pressed); event = null; }
  }).observe(document.querySelector("#queue"), { childList: true, subtree: true, attributes: true });
}
""" % (SHOWN, SHOWN)  # noqa: UP031  braces are JavaScript's

Open = Callable[[str, str], Page]


@pytest.fixture(scope="module")
def truth() -> dict[str, int]:
    """Which digit each image is."""
    return {event_id: int(digit) for event_id, _, digit in digits.stream()}


@pytest.fixture(scope="module")
def system(broker: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A loop that asks about every digit, with its desk and some digits that wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("browser")
    name = f"digits-{os.getpid()}"
    with System(broker.bootstrap, folder, DIGITS, name, desk_port=port) as made:
        made.prepare()
        with closing(open_store(opening.desk_url(made.loop, made.settings), name)) as store:
            people = People(store)
            for person, role in (("ann", "reviewer"), ("bob", "senior"), ("olga", "operator")):
                people.add(person, role, now_ms(), PASSWORD if person == "ann" else None)
        made.start_all()
        made.start("desk")
        made.send(
            "inputs",
            [Input(*event[:2]) for _, event in zip(range(MANY), digits.stream(), strict=False)],
        )
        url = f"http://127.0.0.1:{port}/readyz"

        def ready() -> bool:
            try:
                return httpx.get(url).status_code == 200
            except httpx.TransportError:
                return False

        await_that(ready, 60.0, "the desk is ready")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, which reaches this machine alone."""
    with sync_playwright() as playwright:
        arguments = ["--disable-dev-shm-usage", "--disable-gpu", HERE_ALONE]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def open_page(system: System, browser: Browser) -> Iterator[Open]:
    """Opens a page in a browser of its own, signed in; nothing may be amiss in its console."""
    contexts, amiss = [], list[str]()

    def on_dialog(dialog: Dialog) -> None:
        amiss.append(dialog.message)
        dialog.dismiss()

    def opened(person: str, path: str) -> Page:
        context = browser.new_context(service_workers="block")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("dialog", on_dialog)
        page.on("pageerror", lambda error: amiss.append(str(error)))
        link = opening.link(system.loop, system.settings, person)
        page.goto(link)
        page.get_by_role("button", name="Sign in").click()
        page.goto(link[: link.index("/enter/")] + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert amiss == []


def await_items(page: Page) -> None:
    """Waits until there is something to do."""
    page.wait_for_selector(".item:not([hidden])")


def shown(page: Page) -> str:
    """The event on screen."""
    return str(page.evaluate(SHOWN))


def answer(page: Page, truth: dict[str, int]) -> str:
    """Presses the key of the right digit, and waits for the next item; the event."""
    await_items(page)
    event = shown(page)
    page.keyboard.press(str(truth[event]))
    page.wait_for_function(f"event => {SHOWN} !== event", arg=event)
    return event


def test_thirty_digits_with_the_keyboard_alone(
    system: System, browser: Browser, truth: dict[str, int]
) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{system.settings.desk_port}/")
    page.keyboard.type("ann")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    await_items(page)
    page.evaluate(TIMED)
    events = [answer(page, truth) for _ in range(REVIEWED)]
    page.wait_for_function("count => window.took.length === count", arg=REVIEWED)
    took = page.evaluate("window.took")
    page.close()
    assert len(set(events)) == REVIEWED
    assert statistics.median(took) < 100

    def learned() -> bool:
        told = system.records("outcomes", Outcome)
        return {each.event_id for each in told if each.status == LEARNED} >= set(events)

    await_that(learned, 60.0, "all verdicts are learned")


def test_two_people_never_see_the_same_item(open_page: Open, truth: dict[str, int]) -> None:
    ann, bob = open_page("ann", "/queue"), open_page("bob", "/queue")
    seen: dict[str, set[str]] = {"ann": set(), "bob": set()}
    for _ in range(4):
        for name, page in (("ann", ann), ("bob", bob)):
            await_items(page)
            held = page.eval_on_selector_all(".item", "all => all.map(one => one.dataset.event)")
            seen[name] |= set(held)
            answer(page, truth)
    assert seen["ann"]
    assert seen["ann"].isdisjoint(seen["bob"])


def test_an_answer_shows_live_in_anothers_browse_and_undo_repairs(
    system: System, open_page: Open, truth: dict[str, int]
) -> None:
    queue = open_page("ann", "/queue")
    await_items(queue)
    event = shown(queue)
    watcher = open_page("bob", f"/browse?text={event}")
    answer(queue, truth)
    row = watcher.locator("li", has=watcher.get_by_text(event, exact=True))
    expect(row.locator(".verdict")).to_contain_text("ann: correct", timeout=20_000)
    queue.keyboard.press("u")
    expect(queue.locator("#said")).to_have_text(f"Taken back: {event}", timeout=20_000)
    expect(row.locator(".verdict")).to_have_count(0, timeout=20_000)

    def retracted() -> bool:
        told = system.records("outcomes", Outcome)
        return any(each.event_id == event and each.status == RETRACTED for each in told)

    await_that(retracted, 30.0, "what was learned is taken back")


def test_each_undo_takes_back_one_verdict_however_fast_they_are_asked_for(
    open_page: Open, truth: dict[str, int]
) -> None:
    page = open_page("ann", "/queue")
    first, _second = answer(page, truth), answer(page, truth)
    page.keyboard.press("u")
    page.keyboard.press("u")
    expect(page.locator("#said")).to_have_text(f"Taken back: {first}", timeout=20_000)


def test_an_item_whose_verdict_is_refused_stays_on_screen(
    open_page: Open, truth: dict[str, int]
) -> None:
    page = open_page("ann", "/queue")
    await_items(page)
    event = shown(page)
    page.context.clear_cookies()
    page.keyboard.press(str(truth[event]))
    expect(page.locator("#said")).to_contain_text("sign in first")
    assert shown(page) == event


def test_an_empty_queue_looks_now_and_then_for_what_has_come_back(open_page: Open) -> None:
    page = open_page("ann", "/trouble")
    page.route("**/live", lambda route: route.abort())
    page.clock.install()
    page.goto(page.url.replace("/trouble", "/queue"))
    page.evaluate("document.querySelectorAll('.item').forEach(item => item.remove())")
    assert shown(page) == "None"
    page.clock.fast_forward(6_000)
    await_items(page)


def test_several_are_answered_at_once(open_page: Open) -> None:
    page = open_page("bob", "/browse?answered=no")
    boxes = page.locator(".lane input")
    events = [boxes.nth(n).get_attribute("value") for n in range(2)]
    for event in events:
        page.locator(f".lane input[value='{event}']").check()
    page.keyboard.press("7")
    expect(page.locator("#said")).to_have_text("2 saved")
    for event in events:
        expect(page.locator(f".lane input[value='{event}']")).to_have_count(0, timeout=20_000)


def test_the_tool_that_is_shown_answers_two_events(system: System) -> None:
    with closing(open_store(opening.desk_url(system.loop, system.settings), system.name)) as store:
        people = People(store)
        people.add("tool", "reviewer", now_ms())
        token = people.new_token("tool", ["read", "answer"], now_ms())
    desk = f"http://127.0.0.1:{system.settings.desk_port}"
    done = subprocess.run(
        [sys.executable, str(TOOL), desk, token, "2"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    given = set(done.stdout.split())
    assert len(given) == 2
    system.await_ids("outcomes", given, "feedback_id")


def test_script_stays_text(system: System, open_page: Open) -> None:
    pixels = next(iter(digits.stream()))[1]
    system.send("inputs", [Input(EVIL, pixels, EVIL)])
    page = open_page("ann", "/browse?text=script")
    page.wait_for_selector(".lane input")
    page.get_by_role("link", name="The story of").click()
    expect(page.locator("h1")).to_have_text(EVIL)
    expect(page.locator("blockquote")).to_have_text(EVIL)
    page.get_by_role("button", name="Reject").click()
    expect(page.locator("#said")).to_have_text("1 saved")
    expect(page.locator(".line .feedback")).to_have_count(1, timeout=20_000)


@pytest.fixture
def taught(system: System, truth: dict[str, int]) -> str:
    """The model learns, wave by wave, from people who err now and then; some digits wait. An event that two looked at."""
    images = islice(digits.stream(), MANY, None)
    waiting = list(truth)[:MANY]
    for wave in range(WAVES + 1):
        verdicts = [verdict(event_id, truth[event_id]) for event_id in waiting]
        system.send("feedback", verdicts)
        system.await_ids("outcomes", [each.feedback_id for each in verdicts], "feedback_id")
        some = list(islice(images, WAVE if wave < WAVES else 40))
        new = [Input(name, turned(x) if wave in TURNED else x) for name, x, _ in some]
        system.send("inputs", new)
        waiting = [each.event_id for each in new]
        system.await_ids("predictions", waiting)
    twice = list(truth)[MANY + 4 * WAVE : MANY + 5 * WAVE]
    again = [verdict(each, truth[each], "dora") for each in twice]
    system.send("feedback", again)
    system.await_ids("outcomes", [each.feedback_id for each in again], "feedback_id")
    return twice[0]


def turned(pixels: Features) -> Features:
    """The image on its side."""
    return {f"pixel_{7 - int(name[8])}_{name[6]}": value for name, value in pixels.items()}


def verdict(event_id: str, digit: int, reviewer: str | None = None) -> Feedback:
    """Who answers follows from the event, as does whether that is wrong."""
    number = int(event_id.rpartition("-")[2])
    who = reviewer or ("ann", "bob", "cem")[number % 7 % 3]
    said = digit if number % (19 if reviewer else 31) else (digit + 1) % 10
    return Feedback(f"{event_id}-{who}", event_id, CORRECT, said, reviewer=who, channel="desk")


def picture(page: Page, path: Path, tallest: int) -> None:
    """The page from its top, in few colours: a tenth of the bytes, and nobody sees it."""
    tall = page.evaluate("document.documentElement.scrollHeight")
    size = page.viewport_size or {"width": 0, "height": 0}
    high = min(max(tall, size["height"]), tallest)
    clip = {"x": 0, "y": 0, "width": size["width"], "height": high}
    page.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]
    with Image.open(path) as drawn:
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def test_each_page_suits_everybody_and_has_its_picture(
    system: System, open_page: Open, taught: str, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("COUNTERPOINT_TEST_PICTURES") or tmp_path).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    system.write(system.topic("inputs"), b"not a record", b"broken")
    page = open_page("olga", "/queue")
    await_items(page)
    for path in ("/queue", "/browse", f"/event?id={taught}", "/quality", "/trouble", "/enter/x"):
        page.goto(page.url.split("/", 3)[0] + f"//127.0.0.1:{system.settings.desk_port}{path}")
        for scheme, wide in (("light", 1200), ("dark", 360)):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": wide, "height": 800})
            found = Axe().run(page).response["violations"]
            assert [(path, scheme, each["id"], each["nodes"][0]["html"]) for each in found] == []
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{path} is wider than {wide}"
            name = path[1:].split("?")[0].replace("/", "-")
            tallest = ALL_OF_QUALITY if path == "/quality" else TALLEST
            picture(page, folder / f"{name}-{scheme}.png", tallest)


def test_single_letter_keys_can_be_turned_off_and_stay_off(open_page: Open) -> None:
    """Who dictates to his browser would answer by talking (WCAG 2.1.4)."""
    page = open_page("ann", "/queue")
    await_items(page)
    page.get_by_label("Single-letter keys").uncheck()
    page.reload()
    await_items(page)
    assert not page.get_by_label("Single-letter keys").is_checked()
    page.locator("body").press("?")
    assert page.locator("dialog[open]").count() == 0
    page.get_by_label("Single-letter keys").check()
    page.locator("body").press("?")
    page.wait_for_selector("dialog#help[open]")


def test_a_browser_that_keeps_nothing_for_a_site_is_good_enough(
    open_page: Open, truth: dict[str, int]
) -> None:
    page = open_page("ann", "/health-line")
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    )
    page.goto(page.url.replace("/health-line", "/queue"))
    answer(page, truth)
    page.get_by_label("Single-letter keys").uncheck()
    assert page.locator("html").get_attribute("data-keys") == "off"
