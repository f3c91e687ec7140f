"""Measuring: a network on an engine, or one operator, to times. Nothing here makes tables, nor imports torch by itself.

A deployment is measured by :func:`measure_deployment`, several that are to be compared by :func:`measure_deployments`.
"""

from .deployments import measure_deployment, measure_deployments
from .timing import Limits, Timing

__all__ = ['Limits', 'Timing', 'measure_deployment', 'measure_deployments']
