"""The page in a real browser, against the real API."""

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from projects import REPOSITORY, Project
from servers import EXAMPLE, KEY, KEYS, LONE, Server, running

from credit_risk.contract import FIELD_NAMES

pytestmark = pytest.mark.browser
CHUNK = 500  # rows that the page sends at a time
ADDED = ["probability_of_default", "decision", "model_version", "error"]
SCORE = "Score the application"
PATIENCE = 30_000  # milliseconds until what does not come counts as missing, also on a busy machine
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if not path:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, who runs containers.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def cache(fetched: Path) -> str:
    """The workers only read it."""
    return str(fetched)


@pytest.fixture(scope="module")
def server(finished: Project, cache: str) -> Iterator[Server]:
    with running(finished, *LONE, MODEL_CACHE=cache) as server:
        yield server


@dataclass
class Visit:
    """A page that has been opened, with what it asked for and what it complained about."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """Opens a server's page; `before` may prepare it, all other words go to the browser's context."""
    contexts = []

    def open_(server: Server, before: Callable[[Page], None] = lambda _: None, **options: Any) -> Visit:
        contexts.append(browser.new_context(**options))
        visit = Visit(contexts[-1].new_page())
        visit.page.set_default_timeout(PATIENCE)
        visit.page.on("request", lambda request: visit.asked.append(request.url))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on(
            "console", lambda it: it.type in {"error", "warning"} and visit.complaints.append(f"{it.type}: {it.text}")
        )
        before(visit.page)
        visit.page.goto(str(server.client.base_url))
        return visit

    yield open_
    for context in contexts:
        context.close()


def press_until_on(page: Page, name: str) -> None:
    """Presses Tab until the button of this name has the focus."""
    button = page.get_by_role("button", name=name, exact=True)
    for _ in range(60):
        page.keyboard.press("Tab")
        if button.evaluate("it => it === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {name}")


def examples(client: httpx.Client) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = client.get("/examples").json()
    return answer


@pytest.mark.parametrize("nth", [0, 2])
def test_keyboard_alone_gets_the_probability_of_the_api(server: Server, visit: Visitor, nth: int) -> None:
    page = visit(server).page
    example = examples(server.client)[nth]
    answer = server.client.post("/predict", json=example["application"]).json()
    expect(page.get_by_role("button", name=example["label"], exact=True)).to_be_visible()

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press_until_on(page, example["label"])
    page.keyboard.press("Enter")
    press_until_on(page, SCORE)
    page.keyboard.press("Enter")

    result = page.get_by_role("region", name="Result")
    expect(result.locator(".decision")).to_have_text(answer["decision"])
    assert float(result.locator("data").get_attribute("value") or "") == answer["probability_of_default"]
    shown = float((result.locator("data").text_content() or "").rstrip("%")) / 100
    assert shown == pytest.approx(answer["probability_of_default"], abs=0.0005)
    for text in (f"the threshold of {answer['threshold']:.1%}", "Request "):
        expect(result).to_contain_text(text)
    expect(result.locator("dd")).to_contain_text([f"{answer['threshold']:.1%}", answer["model_version"]])
    bar, pin, safe = (result.locator(it).bounding_box() for it in (".bar", ".pin", ".safe"))
    assert bar
    assert pin
    assert safe
    middle = (pin["x"] + pin["width"] / 2 - bar["x"]) / bar["width"]
    assert middle == pytest.approx(answer["probability_of_default"], abs=0.01)
    assert safe["width"] / bar["width"] == pytest.approx(answer["threshold"], abs=0.01)


def test_errors_of_the_api_stand_at_their_fields_and_the_first_has_the_focus(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    page.get_by_label("Gross approved").fill("137,300")  # as the page itself writes numbers
    page.get_by_label("Employees").fill("many")
    page.get_by_label("Jobs created").fill("1.5")
    page.get_by_role("button", name=SCORE).click()
    sent: dict[str, Any] = {"gross_approved": 137_300, "employees": "many", "jobs_created": 1.5}
    errors = server.client.post("/predict", json=sent).json()["errors"]
    assert {error["field"] for error in errors} == {"sba_guaranteed", "employees", "jobs_created", "franchise"}

    expect(page.locator("[aria-invalid=true]")).to_have_count(4)
    for error in errors:
        control = page.locator(f"[aria-describedby~=field-{error['field']}-error]")
        expect(control).to_have_attribute("aria-invalid", "true")
        said = error["rule"].replace(" or null", " or empty")
        expect(page.locator(f"#field-{error['field']}-error")).to_have_text(said[0].upper() + said[1:])
    expect(page.locator("#field-sba_guaranteed")).to_be_focused()
    links = page.get_by_role("alert").get_by_role("link")
    expect(links).to_have_count(4)
    links.filter(has_text="Franchise").click()
    expect(page.locator("#field-franchise")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator("[aria-invalid=true]")).to_have_count(3)


def test_rule_over_two_fields_names_the_other_by_its_label(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    page.get_by_role("button", name="low risk", exact=True).click()
    page.get_by_label("Gross approved").fill("1000")
    page.get_by_label("SBA guaranteed").fill("2000")
    page.get_by_role("button", name=SCORE).click()
    expect(page.locator("#field-sba_guaranteed-error")).to_have_text("Must not be above Gross approved")
    expect(page.locator("#field-sba_guaranteed")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_has_no_overflow_no_complaint_no_stranger_and_is_accessible(
    server: Server, visit: Visitor, scheme: str, tmp_path: Path
) -> None:
    visited = visit(server, color_scheme=scheme, viewport={"width": 360, "height": 740})
    page = visited.page

    def check(state: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, state
        assert not visited.complaints, state
        found = Axe().run(page)
        assert not found.response["violations"], f"{state}: {found.generate_report()}"

    page.get_by_role("button", name="high risk", exact=True).click()
    check("filled in")
    page.get_by_role("button", name=SCORE).click()
    expect(page.locator(".verdict")).to_be_in_viewport()
    check("scored")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name=SCORE).click()
    expect(page.locator("[aria-invalid=true]").first).to_be_focused()
    assert [it for it in visited.complaints if "422" not in it] == []  # the browser itself logs that status
    visited.complaints.clear()
    check("refused")
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "loans.csv", [EXAMPLE, EXAMPLE | {"state": "ZZ"}]))
    page.get_by_role("button", name="Score 2 rows").click()
    expect(page.locator("#download")).to_be_focused()
    check("file scored")
    assert {httpx.URL(url).port for url in visited.asked if not url.startswith("blob:")} == {server.port}


def test_tabs_move_by_arrows_and_one_is_in_the_tab_order(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    one, many = page.get_by_role("tab", name="One application"), page.get_by_role("tab", name="A CSV file")
    one.focus()
    for key, chosen, other in (
        ("ArrowRight", many, one),
        ("ArrowRight", one, many),
        ("ArrowLeft", many, one),
        ("Home", one, many),
        ("End", many, one),
    ):
        page.keyboard.press(key)
        expect(chosen).to_be_focused()
        expect(chosen).to_have_attribute("aria-selected", "true")
        expect(other).to_have_attribute("tabindex", "-1")
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        expect(page.get_by_role("tabpanel", name=chosen.text_content() or "")).to_be_visible()


def test_form_is_whatever_the_contract_says(server: Server, visit: Visitor) -> None:
    colour = {"name": "colour", "label": "Colour", "kind": "choice", "choices": ["red", "blue", "grey", "pink"]}
    known = {"name": "known", "label": "Known", "kind": "choice", "choices": ["no", "yes"], "required": True}
    size = {"name": "size", "label": "Size", "kind": "number", "unit": "ells", "minimum": 1000, "maximum": 2000}
    other = {"description": "Said of it", "rule": "must be", "required": False, "whole": False, "example": 1}
    document = {"fields": [other | size, other | colour, other | known], "rules": [], "key_required": False}
    sent: list[Any] = []

    def predict(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.abort()

    def before(page: Page) -> None:
        page.route("**/contract", lambda route: route.fulfill(json=document))
        page.route("**/predict", predict)

    page = visit(server, before).page
    page.get_by_label("Size").fill("1,500.5")
    expect(page.get_by_label("Size")).to_have_accessible_description("ells Said of it 1,000 to 2,000")
    assert page.get_by_label("Colour").locator("option").all_text_contents() == ["Unknown", *colour["choices"]]
    expect(page.get_by_role("group", name="Required").get_by_role("radio")).to_have_count(2)
    page.get_by_role("radio", name="yes").check()
    page.get_by_role("button", name=SCORE).click()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    assert sent == [{"size": 1500.5, "colour": None, "known": "yes"}]


def write(path: Path, rows: list[dict[str, Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def download(page: Page) -> str:
    with page.expect_download() as waiting:
        page.locator("#download").click()
    return Path(waiting.value.path()).read_bytes().decode()


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "cp1252")])
def test_csv_comes_back_with_the_answers_of_the_batch_endpoint(
    server: Server, visit: Visitor, tmp_path: Path, delimiter: str, encoding: str
) -> None:
    three = [it["application"] for it in examples(server.client)]
    applications = [dict(three[row % 3]) for row in range(1200)]
    applications[1]["employees"], applications[CHUNK]["state"] = "a, b; c", "ZZ"
    del applications[CHUNK + 1]["franchise"]
    # A column of the lender's own, with all that makes CSV difficult, and one that tells the outcome.
    own = {"Kürzel": 'Zoë "Z"\r\n=1+1; x, y\tz', "Term": 60}
    rows = [own | dict.fromkeys(FIELD_NAMES, "") | application for application in applications]
    page = visit(server).page
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "loans.csv", rows, delimiter, encoding))
    expect(page.get_by_text("Not in the contract, so ignored: Kürzel and Term.")).to_be_visible()
    page.get_by_role("button", name="Score 1,200 rows").click()
    expect(page.locator("#download")).to_be_focused()
    assert page.get_by_role("progressbar").evaluate("it => [it.value, it.max]") == [1200, 1200]

    text = download(page)
    assert text.startswith("\ufeff") == (encoding != "utf-8")
    found = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter))
    answer = server.client.post("/predict/batch", json=applications).json()
    assert list(found[0]) == ["Kürzel", "Term", *FIELD_NAMES, *ADDED]
    assert len(found) == len(answer["results"]) == 1200
    for row, back, result in zip(rows, found, answer["results"], strict=True):
        assert [back[name] for name in row] == ["" if value is None else str(value) for value in row.values()]
        if "errors" in result:
            rules = [f"{it['field']} {it['rule']}".replace(" or null", " or empty") for it in result["errors"]]
            assert [back[name] for name in ADDED] == ["", "", "", "; ".join(rules)]
        else:
            assert float(back["probability_of_default"]) == result["probability_of_default"]
            assert [back[name] for name in ADDED[1:]] == [result["decision"], answer["model_version"], ""]
    decisions = [result.get("decision", "with errors") for result in answer["results"]]
    assert decisions.count("with errors") == 3
    counts = [f"{decisions.count(it):,}" for it in ("approve", "refuse", "with errors")]
    assert page.locator("#outcome dd").all_text_contents() == [*counts, answer["model_version"]]


HEADER = ",".join(FIELD_NAMES)
LINE = ",".join(str(value) for value in EXAMPLE.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (f"{HEADER}\n\n", "has a header and no rows"),
        (b"PK\x03\x04\0\0\0\0", "is not a text file; save the table as CSV (UTF-8) and choose that one"),
        (f"state,employees\n{LINE}\n", "lacks gross_approved, sba_guaranteed and franchise in its first row"),
        (f"{HEADER}\n{LINE}\n\n{LINE},1\n", "has 14 values in row 4 but 13 columns"),
        (f'{HEADER}\n{LINE}\n"{LINE}\n', "has a quote in row 3 that is never closed"),
        (f'{HEADER}\n"1"2{LINE}\n', "has text after a closing quote in row 2"),
        (f"{HEADER},state\n{LINE},AL\n", "has two columns state"),
    ],
    ids=range(8),
)
def test_file_that_cannot_be_scored_is_refused_in_one_sentence_before_anything_is_sent(
    server: Server, visit: Visitor, tmp_path: Path, content: str | bytes, reason: str
) -> None:
    visited = visit(server)
    page = visited.page
    page.get_by_role("tab", name="A CSV file").click()
    path = tmp_path / "loans.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    page.locator("#file").set_input_files(path)
    expect(page.locator("#file-error")).to_contain_text(f"loans.csv {reason}")
    expect(page.locator("#file")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Score")).to_have_count(0)
    assert not [url for url in visited.asked if "/predict" in url]
    page.locator("#file").set_input_files(write(tmp_path / "good.csv", [EXAMPLE]))
    expect(page.get_by_role("button", name="Score 1 row")).to_be_visible()
    expect(page.locator("#file-error")).to_be_empty()


def test_template_can_be_dropped_and_scored(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    page.get_by_role("tab", name="A CSV file").click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download a template").click()
    content = Path(waiting.value.path()).read_bytes()
    make = "text => { const it = new DataTransfer(); it.items.add(new File([text], 'applications.csv')); return it; }"
    dropped = page.evaluate_handle(make, content.decode())
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": dropped})
    page.get_by_role("button", name="Score 1 row").click()
    (row,) = csv.DictReader(io.StringIO(download(page)))
    answer = server.client.post("/predict", json=EXAMPLE).json()
    assert float(row["probability_of_default"]) == answer["probability_of_default"]


def test_busy_server_is_asked_again_and_a_cancelled_run_keeps_what_it_has(
    server: Server, visit: Visitor, tmp_path: Path
) -> None:
    tries: list[int] = []

    def batch(route: Route) -> None:
        tries.append(len(route.request.post_data_json))
        if len(tries) == 1:
            route.fulfill(status=503, headers={"retry-after": "1"}, json={"detail": "busy"})
        elif len(tries) == 2:
            route.fallback()
        # the next one is never answered

    page = visit(server, lambda page: page.route("**/predict/batch", batch)).page
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "loans.csv", [EXAMPLE] * (CHUNK + 3)))
    page.get_by_role("button", name="Score 503 rows").click()
    expect(page.get_by_text("the server is busy, trying again in 1 s")).to_be_visible()
    expect(page.get_by_text("500 of 503 rows")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#done")).to_contain_text("Cancelled after")
    assert tries == [CHUNK, CHUNK, 3]
    rows = list(csv.DictReader(io.StringIO(download(page))))
    assert [bool(row["probability_of_default"]) for row in rows] == [True] * CHUNK + [False] * 3
    assert {row["error"] for row in rows[CHUNK:]} == {"not scored"}


def test_wrong_key_is_told_at_its_field_and_the_right_one_opens_everything(
    finished: Project, cache: str, visit: Visitor, tmp_path: Path
) -> None:
    with running(finished, *LONE, MODEL_CACHE=cache, API_KEYS_SHA256=KEYS) as server:
        page = visit(server).page
        key, low = page.get_by_label("API key"), page.get_by_role("button", name="low risk", exact=True)
        expect(key).to_be_visible()
        expect(low).to_have_count(0)
        page.get_by_role("tab", name="A CSV file").click()
        page.locator("#file").set_input_files(write(tmp_path / "loans.csv", [EXAMPLE]))
        page.get_by_role("button", name="Score 1 row").click()
        expect(key).to_be_focused()
        expect(key).to_have_accessible_description(re.compile("^The server does not know this key"))
        for wrong in ("wrong", "ключ"):
            key.fill(wrong)
            key.press("Enter")
            expect(key).to_have_attribute("aria-invalid", "true")
            expect(key).to_be_focused()
        key.fill(KEY)
        page.get_by_role("button", name="Score 1 row").click()  # without "Use this key"
        expect(page.locator("#download")).to_be_visible()
        key.press("Enter")
        expect(page.get_by_text("The key is accepted.")).to_be_visible()
        expect(key).not_to_have_attribute("aria-invalid", "true")
        page.get_by_role("tab", name="One application").click()
        low.click()
        page.get_by_role("button", name=SCORE).click()
        expect(page.locator(".verdict")).to_be_visible()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_server_without_a_model_and_server_that_is_gone_are_told_in_a_sentence(
    finished: Project, visit: Visitor, tmp_path: Path
) -> None:
    with running(finished, *LONE, MODEL_CACHE=str(tmp_path)) as server:
        page = visit(server).page
        page.get_by_role("button", name=SCORE).click()
        summary = page.locator("#summary")
        expect(summary).to_contain_text("The server cannot answer now: no model has been fetched yet (request ")
    page.get_by_role("button", name=SCORE).click()
    expect(summary).to_have_text("The server does not answer; check that it is running and try again.")


def test_page_is_small_and_has_nothing_inline_and_no_address() -> None:
    files = list((REPOSITORY / "6.production" / "page").iterdir())
    assert sum(path.stat().st_size for path in files) < 40_000
    for path in files:
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"innerHTML|https?://|//cdn|<style|style=|<script>|\bon\w+=\"", text), path
