"""Count multiply-accumulates (MACs) and parameters, by the default rule or by a paper's rule.

The "FLOPs" of this literature are MACs, counted in different ways; each paper's rule is in :mod:`common.cost.rules` by
name.
"""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from common.cost.calls import layer_macs
    from common.cost.count import Cost, count_cost
    from common.cost.rules import RULES
    from common.cost.widths import WidthCost

__all__ = ["RULES", "Cost", "WidthCost", "count_cost", "layer_macs"]

__getattr__ = lazy_names(
    __name__,
    {
        "layer_macs": "calls",
        **dict.fromkeys(("Cost", "count_cost"), "count"),
        "RULES": "rules",
        "WidthCost": "widths",
    },
)
