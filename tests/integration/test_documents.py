"""What README.md and schema/openapi.yaml say of settings, routes, members and codes is what the code has: all of it, and
nothing else."""

import re
import subprocess

import pytest
from support.codex import ROOT
from support.daemon import daemon_binary
from support.openapi import Document

README = (ROOT / "README.md").read_text("utf-8")

# Codes that no client of the REST API gets to see.
AT_START = {
    "bad_token", "database_damaged", "database_foreign", "database_newer", "database_not_found", "file_exists",
    "invalid_host", "listen_failed", "port_in_use", "remote_denied", "token_exposed",
}
OF_MCP = {"body_required", "invalid_query", "not_acceptable"}
BETWEEN_MODULES = {
    "codex_busy", "connection_gone", "events_lost", "idempotency_key_known", "idempotency_key_unknown",
    "invalid_api_key", "invalid_origin", "invalid_text", "message_not_found", "slow_reader", "socket_unknown",
    "sync_timeout", "too_many_reloads", "turn_exists", "turn_not_running",
}
# Errors without a code of their own go by the name of their status.
NAMES_OF_STATUSES = {"busy", "corrupt", "disk_full", "internal", "io", "out_of_memory", "too_large"}

GIVEN = (
    r'cs_err_set\([^",;]+,[^",;]+,[^",;]*"([a-z_]+)"',
    r'cs_refuse\([^";]*"([a-z_]+)"',
    r'(?:cs_rpc_finish|cs_turn_emit_done|end_failed)\([^";]*"([a-z_]+)"',
    r'"(invalid_\w+)"',
    r'\{"([a-z_]+)",\s*CS_[A-Z_]+\}',  # tables of codes and statuses
    r'\{"[^"]+",\s*"((?:codex|context|model)_[a-z_]+)"\}',  # what Codex's own words mean
)


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def source(*modules):
    for module in modules:
        for path in sorted((ROOT / "src" / module).glob("*.c")):
            yield re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def settings():
    """Flag, or None of a secret, and default by the name in the environment, as the daemon's own help has them."""
    shown = subprocess.run([daemon_binary(), "help"], capture_output=True, text=True, check=True).stdout
    assert "cs_" not in shown
    entries = re.findall(r"^  (?:--([a-z-]+)|CODEX).*\n.*\n\s+environment (\S+);.*default (.*)$", shown, re.MULTILINE)
    return {env: (flag or None, default) for flag, env, default in entries}


def test_every_setting_of_the_code_has_an_entry_in_the_help(settings):
    header = (ROOT / "include/cs/base/config.h").read_text("utf-8")
    flags = re.findall(r'X\((?:STR|INT|BOOL), \w+,\s*(?:\\\s*)?"([a-z-]+)"', header)
    assert len(flags) > 30
    assert sorted(settings) == sorted("CODEX_SESSIOND_" + flag.upper().replace("-", "_") for flag in flags)


def test_every_setting_that_the_readme_names_exists(settings):
    flags = {flag for flag, _ in settings.values() if flag}
    foreign = {"PORT", "OPENAI_API_KEY", "REDIS_URL"} | set(re.findall(r"UPSTASH_\w+", README))
    loader = "".join(source("base"))
    assert all(f'{{"{name}", ' in loader for name in foreign), "the other names of settings"
    assert set(re.findall(r"CODEX_SESSIOND_[A-Z_]+", README)) <= set(settings)
    other_programs = {"enable", "header", "install", "long", "now", "prefix", "transport", "user"}
    assert set(re.findall(r"(?<![\w-])--([a-z][a-zA-Z-]+)", README)) - other_programs <= flags


def test_the_defaults_in_the_readme_are_those_of_the_code(settings):
    rows = re.findall(r"^\| (`--.*?) \| (`.*?) \| (.*?) \| .* \|$", section("Configuration"), re.MULTILINE)
    assert len(rows) > 8
    for flags, names, defaults in rows:
        envs = [name for name in re.findall(r"`(\w+)`", names) if name.startswith("CODEX_SESSIOND_")]
        assert [settings[env][0] for env in envs] == re.findall(r"`--([a-z-]+)`", flags)
        for env, default in zip(envs, defaults.split(", "), strict=True):
            real = settings[env][1]
            assert real in ("unset", default.strip("`")), f"{env}: {default}, and the code has {real}"


def test_the_routes_of_readme_document_and_code_are_the_same():
    code = set(re.findall(r'\{"([A-Z]+)", "(/[^"]*)", cs_api', (ROOT / "src/api/route.c").read_text("utf-8")))
    documented = {(method, path.replace("{id}", ":id")) for method, path, _ in Document().operations()}
    assert documented == {(method, path) for method, path in code if path != "/mcp"}
    rows = re.findall(r"^\| (`[A-Z]+ /.*?) \|", section("REST"), re.MULTILINE)
    assert {tuple(route.split()) for row in rows for route in re.findall(r"`(.*?)`", row)} == documented


@pytest.mark.parametrize(("route", "schema"), [("session", "CreateRequest"), ("continue", "ContinueRequest")])
def test_the_members_of_a_prompt_are_those_of_the_document(route, schema):
    row = re.search(rf"^\| `POST /api/codex/{route}` \| (.*) \|$", README, re.MULTILINE).group(1)
    members = set(Document().root["components"]["schemas"][schema]["properties"])
    assert set(re.findall(r"`(\w+)`", row)) == members - {"stream"}  # which has a section of its own
    assert '"stream": true' in section("Live streams")


def test_every_place_that_the_readme_points_to_is_there():
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    places = {re.sub(r"[^a-z0-9 ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]*)\)", README)) <= places
    assert all((ROOT / path).exists() for path in re.findall(r"`((?:src|schema|tests|scripts)/[\w./]+)`", README))


def test_every_code_of_an_error_is_documented_and_each_documented_one_can_come():
    used = {code for text in source("api", "core", "engine", "store") for form in GIVEN for code in re.findall(form, text)}
    used |= {code for code in re.findall(r'"(json_too_large|invalid_json)"', "".join(source("base")))}
    silent = AT_START | OF_MCP | BETWEEN_MODULES
    assert silent <= used, "a code that is gone"
    assert NAMES_OF_STATUSES <= set(re.findall(r'return "(\w+)";', "".join(source("base"))))
    by_status = Document().codes()
    documented = [code for codes in by_status.values() for code in codes]
    assert len(documented) == len(set(documented)) and all(codes == sorted(codes) for codes in by_status.values())
    assert set(documented) == used - silent | NAMES_OF_STATUSES


def test_every_code_that_the_readme_names_is_documented():
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", README))
    assert named <= {code for codes in Document().codes().values() for code in codes}
