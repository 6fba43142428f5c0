"""What no document may have: placeholders, sections without content, other addresses than the project's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.doc_blocks import DOCUMENTS, ROOT, blocks

SHIPPED = sorted(
    path
    for folder in ("deploy", "docker", "scripts", ".github")
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
)
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
REPOSITORY, IMAGE = URLS["Repository"], URLS["Image"].removeprefix("https://")

WORD = re.compile(r"\b(TODO|FIXME|XXX|TBD|FIGURES|OWNER|PLACEHOLDER|CHANGEME|[Ll]orem [Ii]psum)\b")
IN_COMMAND = re.compile(r"<[a-zA-Z][\w -]*>|\b(your|my)[-_][a-z]+|\bYOUR_[A-Z_]+|hf_(xxx|\.\.\.|…)")
COMMANDS = ("bash", "sh", "yaml", "json", "ini", "nginx", "caddyfile")
HEADING = re.compile(r"(#+) .+")


def without_content(text: str) -> list[str]:
    """Return the headings below which there is nothing: no text, and no deeper heading."""
    found, last = [], ""
    for line in [*re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines(), "# end"]:
        if heading := HEADING.fullmatch(line):
            deeper = len(heading[1]) > len(last.partition(" ")[0])
            if last and not deeper:
                found.append(last)
            last = line
        elif line.strip():
            last = ""
    return found


def placeholders(document: Path) -> list[str]:
    """Return what somebody meant to fill in."""
    code = blocks(document)
    prose = document.read_text(encoding="utf-8")
    for block in code:
        prose = prose.replace(block.text, "\n")
    found = [match[0] for match in WORD.finditer(re.sub(r"```.*", "code", prose))]
    found += without_content(re.sub(r"```.*", "code", prose))
    for block in code:
        found += [match[0] for match in WORD.finditer(block.text)]
        if block.language in COMMANDS:
            found += [match[0] for match in IN_COMMAND.finditer(block.text)]
    return found


def test_no_document_has_placeholders() -> None:
    assert {document.name: found for document in DOCUMENTS if (found := placeholders(document))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "## Figures\n\nFIGURES\n",
        "## Figures\n\n## Next\n\nText.\n",
        "# Title\n\nText.\n\n## Figures\n",
        "# Title\n\n<!-- tables:begin -->\n<!-- tables:end -->\n",
        "TODO: measure it.\n",
        "It takes XXX seconds.\n",
        "Lorem ipsum dolor.\n",
        "```bash\ndocker push ghcr.io/OWNER/vllm-engine\n```\n",
        "```bash\ncurl -H 'Authorization: Bearer <your key>' localhost\n```\n",
        "```bash\nexport HF_TOKEN=hf_...\n```\n",
        "```yaml\nkey: your-api-key\n```\n",
    ],
)
def test_a_placeholder_is_found(text: str, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(text)
    assert placeholders(document)


def test_commands_can_be_typed() -> None:
    """The bare name works with an active environment alone: a page that uses it says what to type otherwise."""
    bare = re.compile(r"^(?:.*[|;&(] *)?vllm-engine [a-z]", re.MULTILINE)
    for document in DOCUMENTS:
        if any(bare.search(block.text) for block in blocks(document) if block.language in ("bash", "sh")):
            assert ".venv/bin/vllm-engine" in document.read_text(), document


def test_the_project_has_one_address_and_its_image_one_name() -> None:
    """pyproject.toml has them; whoever names the image says that it is not published yet, and how to build it."""
    pattern = re.compile(r"(?:github\.com|ghcr\.io)/[\w-]+/vllm-engine\b")
    for path in [*DOCUMENTS, *SHIPPED, ROOT / "mkdocs.yml", *ROOT.glob("compose*.yaml")]:
        text = path.read_text(encoding="utf-8", errors="replace")
        found = {"https://" + name if name.startswith("github") else name for name in pattern.findall(text)}
        assert found <= {REPOSITORY, IMAGE, "ghcr.io/you/vllm-engine"}, path  # the last is the reader's own
        if IMAGE in found and path.suffix == ".md" and path.name != "CHANGELOG.md":
            assert f"IMAGE_REPO={IMAGE} ./scripts/build_image.sh" in text, path
            assert re.search(r"no\s+release\s+is\s+published\s+yet", text, re.IGNORECASE), path
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["repo_url"] == REPOSITORY


def test_a_release_publishes_the_names_that_documents_use() -> None:
    workflow = (ROOT / ".github/workflows/release.yml").read_text()
    assert "IMAGE_REPO: ghcr.io/${{ github.repository_owner }}/vllm-engine" in workflow
    for document in DOCUMENTS:
        for tag in re.findall(rf"{IMAGE}:([\w.-]+)", document.read_text()):
            assert f'--tag "$IMAGE_REPO:{tag}"' in workflow, f"{document.name}: {tag}"


def test_the_pages_links_lead_to_the_repository() -> None:
    """A troubleshooting code on the status view leads to its entry at the one address."""
    script = (ROOT / "src/vllm_engine/gateway/local/web/status/parts.js").read_text(encoding="utf-8")
    assert f'"{REPOSITORY}/blob/main/docs/operate/troubleshooting.md"' in script
