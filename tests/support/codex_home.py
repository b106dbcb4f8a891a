"""A private CODEX_HOME whose configuration keeps Codex off the network."""

import os
import sys

CONFIG = """\
model = "{model}"
model_provider = "local"
check_for_update_on_startup = false
web_search = "disabled"
[model_providers.local]
name = "local"
base_url = "{url}"
wire_api = "responses"
request_max_retries = {retries}
stream_max_retries = {retries}
[analytics]
enabled = false
[feedback]
enabled = false
[otel]
exporter = "none"
trace_exporter = "none"
metrics_exporter = "none"
[history]
persistence = "none"
[features]
plugins = false
apps = false
remote_plugin = false
tool_suggest = false
shell_snapshot = false
"""


def write_codex_home(path, url, model="demo", retries=0):
    """Make the folder path and its config.toml, with the model server at url."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    with open(os.path.join(path, "config.toml"), "w", encoding="utf-8") as file:
        file.write(CONFIG.format(model=model, url=url, retries=retries))
    return path


if __name__ == "__main__":
    write_codex_home(sys.argv[1], sys.argv[2], model="gpt-5-codex", retries=1)
