"""Updates what the documents show of the last run: figures, model card and screenshots.

Documents quote these copies, which are committed, and not what a local run happens to give.

Usage: uv run --group web docs/update.py      after uv run main.py; needs Debian's package chromium
Reads:  1.data/5.model/training.json, 1.data/6.reports, the champion in the registry
Writes: benchmarks/results/figures.json, docs/model_card.md, docs/images/{page,report}.png
"""

from credit_risk.core.entry_point import run

import shutil

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, write_json
from credit_risk.core.paths import data, relative, root
from credit_risk.project.served import served

IMAGES = root() / "docs" / "images"
WIDTH, HEIGHT = 1200, 850  # pixels


def main() -> None:
    """Copies the figures and the card, and takes the screenshots."""
    report = data("6.reports", "report.html")
    if not report.exists():
        raise ProjectError(f"{relative(report)} is missing; run the pipeline first: `uv run main.py`")
    training = {"decision_threshold": read_json(data("5.model", "training.json"))["threshold"]}
    figures = read_json(data("6.reports", "metrics.json")) | training
    write_json(root() / "benchmarks" / "results" / "figures.json", figures)
    shutil.copy(data("6.reports", "model_card.md"), root() / "docs" / "model_card.md")
    with served(root()) as address:
        take_screenshots(address, report.as_uri())


def take_screenshots(page_address: str, report_address: str) -> None:
    """Writes one picture of the page with an explained prediction, and one of the report.

    Raises:
        ProjectError: chromium is not installed.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if not path:
        raise ProjectError("chromium is not installed; run `apt-get install chromium`")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # has none for root
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_address)
        page.locator("#examples button").last.click()
        page.locator("#panel-one form > div:last-child > button").first.click()
        page.wait_for_selector("#result :not(:empty)")
        page.wait_for_load_state("networkidle")
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=IMAGES / "page.png")
        page.goto(f"{report_address}#metrics")
        page.screenshot(path=IMAGES / "report.png")
        browser.close()


if __name__ == "__main__":
    run("update", main)
