"""Stage 1: fusion of visible luminance and infrared, from folders of pairs alone.

    python launch/train.py --config=configs/fusion.py --workdir=runs/fusion --config.data.train=FOLDER

FOLDER holds pairs: `ir/` and `vi/`, or LLVIP, M3FD or MSRS as downloaded; several folders are separated by commas,
`PATH@WEIGHT` weighs them. VGG16 is needed once: `esr-lefuse weights import vgg16`.

Cost: with `--config.data.crop=64 --config.batch_size=4` 240 steps took 18 minutes on two cores that did other work
too.
Result: of that run, on 145 windows of 160x128 from M3SVD (`--config.steps=240 --config.optimizer.warmup_steps=20
--config.optimizer.ema_decay=0.95`): validation loss .543 -> .202, l1 to the target .209 -> .063, SSIM to the enhanced
picture .23 -> .87. At full length it has not been run.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """Crops of 128 pixels; validation on whole pictures."""
    config = default_config("fusion")
    config.batch_size = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 200
    config.optimizer.ema_decay = 0.999
    # Well-lit frames darkened as the night does, with themselves as the wanted picture: truth instead of equalisation.
    config.data.darken = 0.5
    return config
