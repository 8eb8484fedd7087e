"""Reinforcement learning from stored transitions alone, one method a file; `METHODS` are those of `toddle offline`."""

from toddle.algorithms.offline.arfm import ARFM
from toddle.algorithms.offline.awac import AWAC
from toddle.algorithms.offline.co_rft import CoRFT
from toddle.algorithms.offline.conditioned import Recap, Reinbot
from toddle.algorithms.offline.conrft import ConRFT
from toddle.algorithms.offline.cql import CQL, CalQL
from toddle.algorithms.offline.dt import DT
from toddle.algorithms.offline.iql import IQL
from toddle.algorithms.offline.learner import OfflineConfig, OfflineLearner
from toddle.algorithms.offline.pac import PAC
from toddle.algorithms.offline.q_transformer import QTransformer
from toddle.algorithms.offline.sarsa import SARSA
from toddle.algorithms.offline.td3_bc import TD3BC

__all__ = ["METHODS", "OfflineConfig", "OfflineLearner"]

METHODS: dict[str, type[OfflineLearner]] = {
    "iql": IQL,
    "cql": CQL,
    "cal-ql": CalQL,
    "td3-bc": TD3BC,
    "co-rft": CoRFT,
    "recap": Recap,
    "reinbot": Reinbot,
    "arfm": ARFM,
    "awac": AWAC,
    "dt": DT,
    "conrft": ConRFT,
    "pac": PAC,
    "q-transformer": QTransformer,
    "sarsa": SARSA,
    "bc": OfflineLearner,
}
