"""The Prometheus configuration that reads Fairlead's metrics from its admin address.

Rule 1: the output is a whole prometheus.yml that works as it is, and its parts can be copied into a larger one.
Rule 2: readings come often enough for the share alert: at least four in its window.
"""

from __future__ import annotations

import json
from typing import Final

from fairlead.config.schema import Address, Config

JOB: Final = "fairlead"
RULE_FILES: Final = "fairlead-rules*.yml"
_EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LONGEST_INTERVAL: Final = 15.0  # seconds
_READINGS: Final = 4  # in one window of the share alert; rates need two, one may be lost

_TEXT: Final = """\
# Prometheus configuration for Fairlead, written by `fairlead export prometheus-scrape`.
# Start with it:    prometheus --config.file=prometheus.yml
# Or copy the entry under `scrape_configs` into the configuration that you have.

global:
  evaluation_interval: {interval}  # how often the alerting rules are looked at

# The alerting rules: fairlead export prometheus-rules > fairlead-rules.yml
rule_files:
  - {rule_files}

scrape_configs:
  - job_name: {job}
    metrics_path: /metrics
    scheme: http
    # The share alert looks at {window:g} s of traffic and needs several readings in that time.
    scrape_interval: {interval}
    static_configs:
      # {comment}
      - targets: [{target}]
"""


def scrape_interval(window: float) -> str:
    """Time between two readings, for a share alert over `window` seconds."""
    seconds = min(_LONGEST_INTERVAL, window / _READINGS)
    return duration(float(int(seconds)) if seconds >= 1.0 else seconds)


def duration(seconds: float) -> str:
    """As Prometheus reads it; it knows no fractions and nothing below a millisecond."""
    whole = round(seconds)
    return f"{whole}s" if abs(seconds - whole) < 0.0005 else f"{round(seconds * 1000)}ms"


def render(config: Config | None) -> str:
    """The file's text for the admin address of `config`, or for the default one."""
    known = config or Config()
    admin, window = known.admin, known.alerts.share.window
    if admin.host in _EVERY_ADDRESS:
        comment = "Fairlead listens on every address: from another machine, write its IP address here (not a name)."
        admin = Address(_EVERY_ADDRESS[admin.host], admin.port)
    elif config is None:
        comment = "The default admin address; give your config file to `fairlead export` to have yours here."
    else:
        comment = "The admin address of the config file; one line per Fairlead."
    if admin.port == 0:
        comment += " Port 0 leaves the choice to the system: write the port that `fairlead serve` printed."
    return _TEXT.format(
        interval=scrape_interval(window),
        rule_files=json.dumps(RULE_FILES),
        job=JOB,
        window=window,
        comment=comment,
        target=json.dumps(str(admin)),
    )
