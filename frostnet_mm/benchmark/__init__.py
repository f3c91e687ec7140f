"""Latency, throughput, memory and end-to-end time of networks on engines: measured in ``measure``, told in ``report``.

This file imports nothing: the processes that measure must not load torch for an engine that does without it.
"""
