"""The page in a real browser, with the real API."""

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
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright
from projects import REPOSITORY, Project
from servers import EXAMPLE, KEY, KEYS, LONE, Server, running

from credit_risk.contract import CONTRACT

pytestmark = pytest.mark.browser
CHUNK = 500  # rows that the page sends at a time
ADDED = ["probability", "decision", "model_version", "error"]
PROBLEM = CONTRACT.problem
NAMES = list(CONTRACT.field_names)
REQUIRED = [field.name for field in CONTRACT.fields if field.required]
SCORE = f"Score the {PROBLEM.row}"
TIMEOUT = 30_000  # milliseconds, also on a busy machine
expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if not path:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, the user of containers.
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
    """An open page, with the URLs it requested and the errors and warnings it logged."""

    page: Page
    requested: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """Opens a server's page; `before` may prepare it, further options go to the browser's context."""
    contexts = []

    def open_(server: Server, before: Callable[[Page], None] = lambda _: None, path: str = "", **options: Any) -> Visit:
        contexts.append(browser.new_context(**options))
        visit = Visit(contexts[-1].new_page())
        visit.page.set_default_timeout(TIMEOUT)
        visit.page.on("request", lambda request: visit.requested.append(request.url))
        visit.page.on("pageerror", lambda error: visit.logged.append(str(error)))
        visit.page.on("console", lambda message: log(visit, message))
        before(visit.page)
        visit.page.goto(str(server.client.base_url) + path)
        return visit

    yield open_
    for context in contexts:
        context.close()


def log(visit: Visit, message: ConsoleMessage) -> None:
    if message.type in {"error", "warning"}:
        visit.logged.append(f"{message.type}: {message.text}")


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until the button of this name has the focus."""
    button = page.get_by_role("button", name=name, exact=True)
    for _ in range(60 + 2 * len(NAMES)):
        page.keyboard.press("Tab")
        if button.evaluate("it => it === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {name}")


def examples(client: httpx.Client) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = client.get("/examples").json()
    return answer


def shown_rule(rule: str) -> str:
    return rule.replace(" or null", " or empty")


@pytest.mark.parametrize("index", [0, 2])
def test_keyboard_alone_gets_the_probability_of_the_api(server: Server, visit: Visitor, index: int) -> None:
    page = visit(server).page
    example = examples(server.client)[index]
    answer = server.client.post("/predict?explain=true", json=example["row"]).json()
    expect(page.get_by_role("button", name=example["label"], exact=True)).to_be_visible()
    expect(page).to_have_title(PROBLEM.title)
    expect(page.get_by_role("heading", level=1)).to_have_text(PROBLEM.question)

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    tab_to(page, example["label"])
    page.keyboard.press("Enter")
    tab_to(page, SCORE)
    page.keyboard.press("Enter")

    result = page.get_by_role("region", name="Result")
    expect(result.locator(".decision")).to_have_text(answer["decision"])
    assert float(result.locator("data").get_attribute("value") or "") == answer["probability"]
    shown = float((result.locator("data").text_content() or "").rstrip("%")) / 100
    assert shown == pytest.approx(answer["probability"], abs=0.0005)
    for text in (f"probability of {PROBLEM.event}", f"the threshold of {answer['threshold']:.1%}", "Request "):
        expect(result).to_contain_text(text)
    expect(result.locator("li")).to_have_text(answer["explanation"]["sentences"])
    expect(result.locator("dd")).to_contain_text([f"{answer['threshold']:.1%}", answer["model_version"]])
    bar, pin, safe = (result.locator(it).bounding_box() for it in (".bar", ".pin", ".safe"))
    assert bar
    assert pin
    assert safe
    middle = (pin["x"] + pin["width"] / 2 - bar["x"]) / bar["width"]
    assert middle == pytest.approx(answer["probability"], abs=0.01)
    assert safe["width"] / bar["width"] == pytest.approx(answer["threshold"], abs=0.01)


def test_errors_of_the_api_are_shown_at_their_fields_and_the_first_has_the_focus(
    server: Server, visit: Visitor
) -> None:
    page = visit(server).page
    values = {number.name: "many" for number in CONTRACT.numbers[-2:]} | {
        name.name: "?" for name in CONTRACT.open_names
    }
    for name, value in values.items():
        page.locator(f"#field-{name}").fill(value)
    page.get_by_role("button", name=SCORE).click()
    errors = server.client.post("/predict", json=values).json()["errors"]
    wrong = [name for name in NAMES if name in {*values, *REQUIRED}]
    assert {error["field"] for error in errors} == set(wrong)

    expect(page.locator("[aria-invalid=true]")).to_have_count(len(wrong))
    for error in errors:
        control = page.locator(f"[aria-describedby~=field-{error['field']}-error]")
        expect(control).to_have_attribute("aria-invalid", "true")
        text = shown_rule(error["rule"])
        expect(page.locator(f"#field-{error['field']}-error")).to_have_text(text[0].upper() + text[1:])
    expect(page.locator(f"#field-{wrong[0]}")).to_be_focused()
    links = page.get_by_role("alert").get_by_role("link")
    expect(links).to_have_count(len(wrong))
    page.locator(f"a[href='#field-{wrong[-1]}']").click()
    expect(page.locator(f"#field-{wrong[-1]}")).to_be_focused()
    page.locator(f"#field-{wrong[-1]}").dispatch_event("input", {"bubbles": True})
    expect(page.locator("[aria-invalid=true]")).to_have_count(len(wrong) - 1)


def test_a_name_is_typed_not_chosen_from_a_list(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    page.get_by_role("button", name=examples(server.client)[0]["label"], exact=True).click()
    for name in CONTRACT.open_names:
        control = page.locator(f"#field-{name.name}")
        expect(control).to_have_attribute("maxlength", str(name.max_length))
        assert control.evaluate("it => it.tagName + it.getAttribute('list')") == "INPUTnull"
        control.fill("")
        control.press_sequentially("n" * (name.max_length + 5))
        expect(control).to_have_value("n" * name.max_length)
    page.get_by_role("button", name=SCORE).click()
    expect(page.locator(".prediction")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_overflows_nothing_is_logged_nothing_foreign_is_loaded_and_it_is_accessible(
    server: Server, visit: Visitor, scheme: str, tmp_path: Path
) -> None:
    visited = visit(server, color_scheme=scheme, viewport={"width": 360, "height": 740})
    page = visited.page

    def check(state: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, state
        assert not visited.logged, state
        found = Axe().run(page)
        assert not found.response["violations"], f"{state}: {found.generate_report()}"

    page.get_by_role("button", name="high risk", exact=True).click()
    page.locator("#about summary").click()
    check("filled in")
    page.get_by_role("button", name=SCORE).click()
    expect(page.locator(".prediction")).to_be_in_viewport()
    check("scored")
    page.get_by_role("button", name="Clear").click()
    page.locator(f"#field-{CONTRACT.numbers[0].name}").fill("many")
    page.get_by_role("button", name=SCORE).click()
    expect(page.locator("[aria-invalid=true]").first).to_be_visible()
    assert [it for it in visited.logged if "422" not in it] == []  # the browser itself logs that status
    visited.logged.clear()
    check("rejected")
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "rows.csv", [EXAMPLE, EXAMPLE | {NAMES[0]: "?"}]))
    page.get_by_role("button", name="Score 2 rows").click()
    expect(page.locator("#download")).to_be_focused()
    check("file scored")
    assert {httpx.URL(url).port for url in visited.requested if not url.startswith("blob:")} == {server.port}


def test_tabs_move_by_arrows_and_one_is_in_the_tab_order(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    one, many = page.get_by_role("tab", name=f"One {PROBLEM.row}"), page.get_by_role("tab", name="A CSV file")
    one.focus()
    for key, selected, other in (
        ("ArrowRight", many, one),
        ("ArrowRight", one, many),
        ("ArrowLeft", many, one),
        ("Home", one, many),
        ("End", many, one),
    ):
        page.keyboard.press(key)
        expect(selected).to_be_focused()
        expect(selected).to_have_attribute("aria-selected", "true")
        expect(other).to_have_attribute("tabindex", "-1")
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        expect(page.get_by_role("tabpanel", name=selected.text_content() or "")).to_be_visible()


WORDS = {
    "title": "Kilns",
    "question": "How likely is it that a pot cracks?",
    "row": "pot",
    "rows": "pots",
    "event": "crack",
    "accept": "fire",
    "accepted": "fired",
    "decline": "dry",
    "declined": "dried",
    "source": "A potter's notebook.",
    "limits": ["Not for bricks."],
}
OTHER = {"description": "Measured before firing", "rule": "must be", "required": False, "whole": False, "example": None}
POTS = {
    "problem": WORDS,
    "fields": [
        OTHER | {"name": "size", "label": "Size", "kind": "number", "unit": "mm", "minimum": 1000, "maximum": 2000},
        OTHER | {"name": "wall", "label": "Wall", "kind": "number", "unit": "mm", "minimum": 0.0005, "maximum": 5},
        OTHER | {"name": "colour", "label": "Colour", "kind": "choice", "choices": ["red", "blue", "grey", "pink"]},
        OTHER | {"name": "glazed", "label": "Glazed", "kind": "choice", "choices": ["no", "yes"], "required": True},
    ],
    "rules": [{"smaller": "wall", "larger": "size", "rule": "must not be above size"}],
    "key_required": False,
}


def test_fields_and_words_are_those_of_the_contract(server: Server, visit: Visitor, tmp_path: Path) -> None:
    sent: list[Any] = []
    errors = [{"field": "wall", "value_type": "number", "rule": "must not be above size"}]
    prediction = {"probability": 0.25, "threshold": 0.2, "decision": "dry", "model_version": "3", "schema_version": 1}
    answers: list[dict[str, Any]] = [
        {"status": 422, "json": {"detail": "", "errors": errors}},
        {"status": 200, "json": prediction},
    ]

    def predict(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(**answers.pop(0)) if answers else route.abort()

    def before(page: Page) -> None:
        page.route("**/contract", lambda route: route.fulfill(json=POTS))
        page.route("**/examples", lambda route: route.fulfill(json=[{"label": "low risk", "row": {"size": 1200}}]))
        page.route(re.compile(r"/predict\?"), predict)
        page.route(
            "**/predict/batch",
            lambda route: route.fulfill(json={"results": [{"probability": 0.1, "decision": "fire"}], **prediction}),
        )

    page = visit(server, before).page
    page.get_by_label("Size").fill("1,500.5")
    expect(page.get_by_label("Size")).to_have_accessible_description("mm Measured before firing 1,000 to 2,000")
    expect(page.get_by_label("Wall")).to_have_accessible_description("mm Measured before firing 0.0005 to 5")
    assert page.get_by_label("Colour").locator("option").all_text_contents() == [
        "Unknown",
        *("red", "blue", "grey", "pink"),
    ]
    expect(page.get_by_role("group", name="Required").get_by_role("radio")).to_have_count(2)
    page.get_by_role("radio", name="yes").check()
    page.get_by_role("button", name="Score the pot").click()
    expect(page.locator("#field-wall-error")).to_have_text("Must not be above Size")
    expect(page.locator("#field-wall")).to_be_focused()
    page.get_by_role("button", name="Score the pot").click()
    expect(page.locator(".prediction.declined .decision")).to_have_text("dry")
    expect(page.locator(".prediction")).to_contain_text("The probability of crack is 25.0%, at or above the threshold")
    expect(page.get_by_role("img")).to_have_accessible_name(re.compile("pots at or above it are dried"))
    page.get_by_role("button", name="low risk", exact=True).click()
    expect(page.get_by_label("Size")).to_have_value("1200")
    page.get_by_role("button", name="Score the pot").click()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    assert sent[0] == sent[1] == {"size": 1500.5, "wall": None, "colour": None, "glazed": "yes"}
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "pots.csv", [{"glazed": "no"}]))
    page.get_by_role("button", name="Score 1 row").click()
    expect(page.locator("#batch-result dt")).to_have_text(["fired", "dried", "with errors", "model version"])

    page.locator("#about summary").click()
    text = page.locator("body").inner_text()
    for word in {PROBLEM.title, PROBLEM.question, PROBLEM.row, PROBLEM.event, PROBLEM.declined} - {"row"}:
        assert not re.search(rf"\b{re.escape(word)}\b", text), word
    for word in ("Kilns", "How likely is it that a pot cracks?", "A potter's notebook.", "Not for bricks."):
        assert word in text


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
def test_csv_comes_back_with_the_predictions_of_the_batch_endpoint(
    server: Server, visit: Visitor, tmp_path: Path, delimiter: str, encoding: str
) -> None:
    three = [it["row"] for it in examples(server.client)]
    sent = [dict(three[row % 3]) for row in range(1200)]
    sent[1][NAMES[0]], sent[CHUNK][NAMES[-1]] = "a, b; c", "?"
    for name in REQUIRED[:1]:
        del sent[CHUNK + 1][name]
    # Two columns that are not in the contract, one with everything that makes CSV difficult.
    own = {"Kürzel": 'Zoë "Z"\r\n=1+1; x, y\tz', "Other": 60}
    rows = [own | dict.fromkeys(NAMES, "") | row for row in sent]
    page = visit(server).page
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "rows.csv", rows, delimiter, encoding))
    expect(page.get_by_text("Not in the contract, so ignored: Kürzel and Other.")).to_be_visible()
    page.get_by_role("button", name="Score 1,200 rows").click()
    expect(page.locator("#download")).to_be_focused()
    assert page.get_by_role("progressbar").evaluate("it => [it.value, it.max]") == [1200, 1200]

    text = download(page)
    assert text.startswith("\ufeff") == (encoding != "utf-8")
    found = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter))
    answer = server.client.post("/predict/batch", json=sent).json()
    assert list(found[0]) == ["Kürzel", "Other", *NAMES, *ADDED]
    assert len(found) == len(answer["results"]) == 1200
    for row, back, result in zip(rows, found, answer["results"], strict=True):
        assert [back[name] for name in row] == ["" if value is None else str(value) for value in row.values()]
        if "errors" in result:
            rules = [f"{it['field']} {shown_rule(it['rule'])}" for it in result["errors"]]
            assert [back[name] for name in ADDED] == ["", "", "", "; ".join(rules)]
        else:
            assert float(back["probability"]) == result["probability"]
            assert [back[name] for name in ADDED[1:]] == [result["decision"], answer["model_version"], ""]
    decisions = [result.get("decision", "with errors") for result in answer["results"]]
    assert decisions.count("with errors") == 2 + len(REQUIRED[:1])
    counts = [f"{decisions.count(it):,}" for it in (PROBLEM.accept, PROBLEM.decline, "with errors")]
    expect(page.locator("#batch-result dd")).to_have_text([*counts, answer["model_version"]])


def csv_line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


HEADER, LINE, WIDTH = csv_line(NAMES), csv_line(EXAMPLE.values()), len(NAMES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (f"{HEADER}\n\n", "has a header and no rows"),
        (b"PK\x03\x04\0\0\0\0", "is not a text file; save the table as CSV (UTF-8) and choose that one"),
        *((f"other\n{LINE}\n", f"lacks {name}") for name in REQUIRED[:1]),
        (f"{HEADER}\n{LINE}\n\n{LINE},1\n", f"has {WIDTH + 1} values in row 4 but {WIDTH} columns"),
        (f'{HEADER}\n{LINE}\n"{LINE}\n', "has a quote in row 3 that is never closed"),
        (f'{HEADER}\n"1"2{LINE}\n', "has text after a closing quote in row 2"),
        (f"{HEADER},{NAMES[0]}\n{LINE},1\n", f"has two columns {NAMES[0]}"),
    ],
)
def test_a_file_that_cannot_be_scored_is_rejected_in_one_sentence_before_anything_is_sent(
    server: Server, visit: Visitor, tmp_path: Path, content: str | bytes, reason: str
) -> None:
    visited = visit(server)
    page = visited.page
    page.get_by_role("tab", name="A CSV file").click()
    path = tmp_path / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    page.locator("#file").set_input_files(path)
    expect(page.locator("#file-error")).to_contain_text(f"rows.csv {reason}")
    expect(page.locator("#file")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#start")).to_be_hidden()
    assert not [url for url in visited.requested if "/predict" in url]
    page.locator("#file").set_input_files(write(tmp_path / "good.csv", [EXAMPLE]))
    expect(page.get_by_role("button", name="Score 1 row")).to_be_visible()
    expect(page.locator("#file-error")).to_be_empty()


def test_the_template_can_be_dropped_and_scored(server: Server, visit: Visitor) -> None:
    page = visit(server).page
    page.get_by_role("tab", name="A CSV file").click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download a template").click()
    assert waiting.value.suggested_filename == f"{PROBLEM.rows}.csv"
    content = Path(waiting.value.path()).read_bytes()
    make = "text => { const it = new DataTransfer(); it.items.add(new File([text], 'rows.csv')); return it; }"
    dropped = page.evaluate_handle(make, content.decode())
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": dropped})
    page.get_by_role("button", name="Score 1 row").click()
    (row,) = csv.DictReader(io.StringIO(download(page)))
    answer = server.client.post("/predict", json=EXAMPLE).json()
    assert float(row["probability"]) == answer["probability"]


def test_an_overloaded_server_is_tried_again_and_a_cancelled_run_keeps_its_predictions(
    server: Server, visit: Visitor, tmp_path: Path
) -> None:
    tries: list[int] = []

    def batch(route: Route) -> None:
        tries.append(len(route.request.post_data_json or ()))
        if len(tries) == 1:
            route.fulfill(status=503, headers={"retry-after": "1"}, json={"detail": "overloaded"})
        elif len(tries) == 2:
            route.fallback()
        # the next one is never answered

    page = visit(server, lambda page: page.route("**/predict/batch", batch)).page
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("#file").set_input_files(write(tmp_path / "rows.csv", [EXAMPLE] * (CHUNK + 3)))
    page.get_by_role("button", name="Score 503 rows").click()
    expect(page.get_by_text("the server is overloaded, trying again in 1 s")).to_be_visible()
    expect(page.get_by_text("500 of 503 rows")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#done")).to_contain_text("Cancelled after")
    assert tries == [CHUNK, CHUNK, 3]
    rows = list(csv.DictReader(io.StringIO(download(page))))
    assert [bool(row["probability"]) for row in rows] == [True] * CHUNK + [False] * 3
    assert {row["error"] for row in rows[CHUNK:]} == {"not scored"}


def test_a_wrong_key_is_reported_at_its_field_and_the_right_one_is_accepted(
    finished: Project, cache: str, visit: Visitor, tmp_path: Path
) -> None:
    with running(finished, *LONE, MODEL_CACHE=cache, API_KEYS_SHA256=KEYS) as server:
        page = visit(server).page
        key, low = page.get_by_label("API key"), page.get_by_role("button", name="low risk", exact=True)
        expect(key).to_be_visible()
        expect(low).to_have_count(0)
        page.get_by_role("tab", name="A CSV file").click()
        page.locator("#file").set_input_files(write(tmp_path / "rows.csv", [EXAMPLE]))
        page.get_by_role("button", name="Score 1 row").click()
        expect(key).to_be_focused()
        expect(key).to_have_accessible_description(re.compile("^The server does not accept this key"))
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
        page.get_by_role("tab", name=f"One {PROBLEM.row}").click()
        low.click()
        page.get_by_role("button", name=SCORE).click()
        expect(page.locator(".prediction")).to_be_visible()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_the_documentation_works_and_loads_nothing_from_elsewhere(server: Server, visit: Visitor) -> None:
    visited = visit(server, path="/docs")
    expect(visited.page.get_by_text("/predict/batch").first).to_be_visible()
    visited.page.wait_for_load_state("networkidle")
    assert {httpx.URL(url).port for url in visited.requested if not url.startswith(("blob:", "data:"))} == {server.port}
    assert visited.logged == []


def test_a_server_without_a_model_and_one_that_is_gone_are_reported_in_a_sentence(
    finished: Project, visit: Visitor, tmp_path: Path
) -> None:
    with running(finished, *LONE, MODEL_CACHE=str(tmp_path)) as server:
        page = visit(server).page
        page.get_by_role("button", name=SCORE).click()
        summary = page.locator("#summary")
        expect(summary).to_contain_text("The server cannot answer now: no model has been loaded yet (request ")
    page.get_by_role("button", name=SCORE).click()
    expect(summary).to_have_text("The server does not answer; check that it is running and try again.")


def test_the_page_is_small_has_nothing_inline_and_no_address_and_names_no_field() -> None:
    files = list((REPOSITORY / "6.production" / "page").iterdir())
    assert sum(path.stat().st_size for path in files) < 43_000
    for path in files:
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"innerHTML|https?://|//cdn|<style|style=|<script>|\bon\w+=\"", text), path
        for name in NAMES:
            assert not re.search(rf"[\"'`.]{name}[\"'`]", text), (path, name)
