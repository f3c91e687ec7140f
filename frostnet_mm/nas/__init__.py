"""The search for architectures: a space of FrostNets, their common weights, and their times on an engine."""

from ..lazy import offer

__all__ = offer(
    __name__,
    {
        '.architectures': ['canonical', 'count_weights', 'key'],
        '.elastic': ['ElasticFrostNet'],
        '.errors': ['SearchError'],
        '.features': ['FEATURES', 'features_of', 'mmacs'],
        '.latency': ['Check', 'LatencyModel', 'spearman'],
        '.networks': ['elastic_backbone', 'elastic_of', 'extract_model', 'plain_backbone', 'space_of'],
        '.recalibrate': ['recalibrate'],
        '.rounding': ['BatchRounding'],
        '.space': ['SearchSpace'],
        '.supernet_hook': ['SupernetHook', 'network_at'],
        '.timing': [
            'Setting',
            'TimedNetwork',
            'choose_networks',
            'fit_latency',
            'latency_store',
            'read_latency',
            'time_networks',
        ],
    },
)
