"""Where the real Codex programs are, and which engine each one serves."""

import glob
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEWEST = "0.169.0"
LAST_WITH_MCP = "0.153.4"

VERSION_OF_ENGINE = {"app-server": NEWEST, "exec": NEWEST, "mcp": LAST_WITH_MCP}


def codex_binary(version=NEWEST):
    """The native program, as scripts/setup --tests installs it."""
    pattern = f"{ROOT}/.deps/codex-{version}/node_modules/@openai/codex*/vendor/*/bin/codex"
    found = glob.glob(pattern)
    if not found:
        raise FileNotFoundError(f"Codex {version} is missing: run scripts/setup --tests")
    return found[0]
