"""Audit instruction data about annotated pictures: invented objects, leaks of the source, duplicates."""

from vistune.data.audit.run import Audit, AuditSettings, audit

__all__ = ["Audit", "AuditSettings", "audit"]
