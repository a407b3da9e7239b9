"""Channel groups: find the channels that can only be removed together, mask them, remove them.

The coupling is traced by labels that follow the channels through the network (:mod:`common.channels.labels`). Only this package
imports torch-pruning, for the reference method of ``compare``.
"""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from common.channels.groups import ChannelGroup, ChannelGroups
    from common.channels.listing import channel_groups
    from common.channels.mask import Masking, masked
    from common.channels.remove import keep_channels
    from common.channels.select import top_channels

__all__ = ["ChannelGroup", "ChannelGroups", "Masking", "channel_groups", "keep_channels", "masked", "top_channels"]

__getattr__ = lazy_names(
    __name__,
    {
        "keep_channels": "remove",
        **dict.fromkeys(("ChannelGroup", "ChannelGroups"), "groups"),
        "channel_groups": "listing",
        **dict.fromkeys(("Masking", "masked"), "mask"),
        "top_channels": "select",
    },
)
