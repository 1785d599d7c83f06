"""Check anybody's LLaVA-format file before a training run stumbles over it."""

from vistune.data.check.report import CheckReport, Finding, Severity
from vistune.data.check.run import CheckSettings, check, check_and_tell

__all__ = ["CheckReport", "CheckSettings", "Finding", "Severity", "check", "check_and_tell"]
