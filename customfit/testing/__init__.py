"""Tests for models of your own: the same numbers under `fit()` and `custom_fit()`? After a kill?

This room owns no state. It drives models and sessions from outside, as a user would.
"""

from customfit.testing.parity import ParityReport, check_parity
from customfit.testing.resume import ResumeReport, check_resume

__all__ = ["ParityReport", "ResumeReport", "check_parity", "check_resume"]
