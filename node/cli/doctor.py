"""`clove doctor`."""

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import note, print_json
from node.errors import ExitCode

_MARKS = {"ok": "ok  ", "warn": "note", "fail": "FAIL"}


def doctor(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Look for what would keep a node from running; 1 when something would."""
    from dataclasses import asdict

    from node.checkup import check_up
    from node.home import Home

    findings = check_up(Home.locate(home))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{_MARKS[finding.level]}  {finding.subject}: {finding.detail}")
            if finding.remedy:
                note(f"      {finding.remedy}")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(ExitCode.FAILED)
