"""Rewards that compose (`toddle pretrain --reward sparse+0.5*pbrs+rnd`): a file a term, put together by `compose`."""
