"""A Prometheus configuration for a demo under way, so that whoever has a Prometheus sees it there and in Grafana."""

from __future__ import annotations

from pathlib import Path
from typing import Final

RULES: Final = Path(__file__).resolve().parents[2] / "deploy/prometheus/rules/wattshift.yml"
"""There in a checkout, not in an installed package."""
_CONFIG: Final = """\
global:
  scrape_interval: 2s
  evaluation_interval: 2s
  external_labels: {{ wattshift_url: "{url}" }}
scrape_configs:
  - job_name: wattshift-controller
    authorization: {{ credentials_file: "{token_file}" }}
    static_configs: [{{ targets: ["{address}"] }}]
"""


def write_prometheus(folder: Path, url: str, token_file: Path) -> Path:
    """Write prometheus.yml, with the alert rules where they are at hand."""
    text = _CONFIG.format(url=url, token_file=token_file, address=url.removeprefix("http://").rstrip("/"))
    if RULES.is_file():
        text += f'rule_files: ["{RULES}"]\n'
    path = folder / "prometheus.yml"
    path.write_text(text, encoding="utf-8")
    return path
