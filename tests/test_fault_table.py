"""7.deploy/faults.md: what fails, what happens, and the test that shows it. Each named test exists.

Write the page: uv run tests/test_fault_table.py
"""

import ast
from pathlib import Path

import pytest
from projects import REPOSITORY

PAGE = REPOSITORY / "7.deploy" / "faults.md"
FAULTS = {  # file: what fails, what happens, the test (with its class, if it has one)
    "release": [
        (
            "the new release answers wrongly",
            "it is undone; the one before serves",
            "release_with_wrong_responses_is_undone",
        ),
        (
            "an alarm rings during the bake time",
            "it is undone, although the alarm goes on",
            "alarm_during_the_bake_time_undoes_although_it_goes_on_ringing",
        ),
        (
            "an alarm rings and somebody rolls back",
            "the release before serves and stays",
            "rollback_works_while_the_alarm_rings_and_is_not_undone",
        ),
        (
            "Auto Scaling starts a server during a rollback",
            "its deployment is waited for",
            "rollback_waits_for_the_deployments_of_auto_scaling",
        ),
        (
            "one server fails, even the last one",
            "the release is undone and says what the hook said",
            "release_that_fails_on_a_server_is_undone_and_says_why",
        ),
        (
            "a bad release gets 5 % of the traffic",
            "the weights go back",
            "alarm_of_the_new_group_takes_its_traffic_back",
        ),
        (
            "the release's process is killed",
            "`release.py undo` ends it, as often as you like",
            "undo_ends_a_release_whose_process_was_killed_and_can_be_repeated",
        ),
        (
            "the workflow is cancelled",
            "the release is interrupted and undone",
            "cancelled_workflow_interrupts_the_release",
        ),
        ("the image to go back to is gone", "said at once; nothing changes", "rollback_needs_the_image"),
        (
            "a stack is updated while servers are busy",
            "number of servers and traffic stay",
            "update_of_the_stack_keeps_sizes_and_traffic",
        ),
    ],
    "hooks": [
        (
            "the new container doesn't become ready",
            "it is removed, with one sentence in CodeDeploy",
            "bad_release_is_rejected_and_removed",
        ),
        ("a container hangs when it is stopped", "it is removed", "stopping_removes_a_hanging_container"),
    ],
    "model_sync": [
        (
            "the champion's files are damaged",
            "it is rejected; the last good one serves",
            "a_bad_champion_is_rejected_and_the_last_good_one_stays",
        ),
        ("the cache is damaged", "it is repaired from the registry", "a_damaged_cache_is_not_served_and_is_repaired"),
        (
            "the registry is down",
            "the last good model serves; `/readyz` says so",
            "with_the_registry_down_the_last_good_model_is_served_and_status_says_so",
        ),
        ("the process of model sync is killed", "it is started again", "a_killed_model_sync_is_started_again"),
    ],
    "signed_model": [
        (
            "model and digest are exchanged together",
            "refused, if `MODEL_PUBLIC_KEY` is set",
            "model_and_tag_exchanged_together_are_refused",
        ),
        ("the model is signed with another key", "refused", "a_signature_of_another_key_is_refused"),
    ],
    "faults": [
        (
            "PostgreSQL, S3 or MLflow stops while a model is registered or promoted",
            "one sentence; nothing half-registered is promoted; a retry finishes",
            "TestStopped.outage_at_each_moment",
        ),
        ("one of them hangs", "the same, after a limit", "TestFrozen.outage_at_each_moment"),
        ("an artifact is altered or cut", "rejected by its digest", "a_damaged_artifact_is_rejected_by_its_digest"),
    ],
    "stack_script": [
        ("an image is built for another processor", "it is not pushed", "an_image_for_another_processor_is_not_pushed"),
    ],
    "aws": [
        (
            "a job of another repository, branch or workflow asks for a role",
            "it gets none",
            "githubs_roles_trust_one_job_of_one_repository",
        ),
    ],
}
HEADER = """# Faults: what fails, what happens, and the test that shows it

Written by `uv run tests/test_fault_table.py`. Run a test with `uv run --all-groups pytest -m '' FILE -k NAME`.

| what fails | what happens | test |
|---|---|---|
"""


def page() -> str:
    rows = [
        f"| {fails} | {happens} | [{name.rpartition('.')[2]}](../tests/test_{file}.py) |"
        for file, faults in FAULTS.items()
        for fails, happens, name in faults
    ]
    return HEADER + "\n".join(rows) + "\n"


def names_in(path: Path) -> set[str]:
    """The tests of a file, without `test_`; those of a class as Class.name."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name.removeprefix("test_"))
        elif isinstance(node, ast.ClassDef):
            names = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            found |= {f"{node.name}.{name.removeprefix('test_')}" for name in names}
    return found


@pytest.mark.parametrize("file", FAULTS)
def test_each_named_test_exists(file: str) -> None:
    known = names_in(REPOSITORY / "tests" / f"test_{file}.py")
    named = [name for _, _, name in FAULTS[file]]
    assert [name for name in named if name not in known] == []


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `uv run tests/test_fault_table.py`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
