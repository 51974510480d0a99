"""Training tasks for timm: the parts that need timm.task, and so a newer timm than loss, head and drop-in."""
import re

import timm

if [int(number) for number in re.findall(r'\d+', timm.__version__)[:3]] < [1, 0, 31]:
    raise ImportError(
        f'the tasks and scripts of timm_multimix need timm 1.0.31 or newer, got timm {timm.__version__}; MultiMixLoss, '
        'MultiMixHead and MultiMix work with timm 1.0.23 or newer')
