"""docs/configuration.md: its tables are current, its examples load, its sample output is what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trustme
import yaml
from click.testing import CliRunner

from fairlead.cli.check import check
from fairlead.config import reference
from fairlead.config.load import parse, read_file
from fairlead.config.schema import TEMPLATE_NAMES, Policy, Recording
from fairlead.config.switch import read_switch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_option_tables_are_current() -> None:
    assert reference.with_reference(TEXT) == TEXT, (
        "run: python -m fairlead.config.reference --write docs/configuration.md"
    )


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_loads_without_a_problem(tmp_path: Path, example: str) -> None:
    if "# needs: server.pem server.key" in example:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        certificate = authority.issue_cert("server.test")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    file = tmp_path / "fairlead.yaml"
    file.write_text(example, encoding="utf-8")
    config, problems = read_file(file)
    assert config is not None, problems
    assert problems == []


def test_the_names_for_a_template_are_all_there() -> None:
    paragraph = re.search(r"^A template may speak of (.*?)\.$", TEXT, re.DOTALL | re.MULTILINE)
    assert paragraph is not None
    assert tuple(re.findall(r"`\$(\w+)`", paragraph[1])) == TEMPLATE_NAMES


def test_the_example_of_a_recording_loads() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (PAGE.parent / "recording.md").read_text("utf-8"), re.DOTALL)
    config, problems = parse({"backends": "a:1", **yaml.safe_load(example)}, "recording.md")
    assert config is not None, problems
    assert config.recording == Recording(path="trace.jsonl")


def test_every_switch_in_the_docs_can_be_made() -> None:
    section = (PAGE.parent / "admin-api.md").read_text("utf-8").partition("\n## /api/policy\n")[2].partition("\n## ")[0]
    bodies = re.findall(r"^\| `(\{.*?\})` \|", section, re.MULTILINE)
    bodies += re.findall(r"-d '(.*?)'", section)
    assert len(bodies) >= 5
    for body in bodies:
        read_switch(json.loads(body), Policy(), None, (Policy(), None))


def test_the_sample_output_is_what_check_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = re.search(r"\$ fairlead check fairlead.yaml\n(.*?)```", TEXT, re.DOTALL)
    assert sample is not None
    monkeypatch.chdir(tmp_path)
    Path("fairlead.yaml").write_text(
        "listen: 0.0.0.0:8080\nbackends:\n  - http://gpu1:8000\n  - {url: ftp://gpu2, wieght: 2}\n"
        "timeouts: {connect: 5}\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(check, ["fairlead.yaml"])
    assert sorted(result.output.splitlines()) == sorted(sample[1].splitlines())


def test_the_reference_can_be_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([]) == 0
    assert capsys.readouterr().out == reference.reference_markdown()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n", encoding="utf-8")
    assert reference.main(["--write", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == (
        f"before\n{reference.BEGIN}\n\n{reference.reference_markdown()}\n{reference.END}\nafter\n"
    )
    assert reference.main(["--nonsense"]) == 2
    with pytest.raises(ValueError, match="expected the lines"):
        reference.with_reference("no markers")
