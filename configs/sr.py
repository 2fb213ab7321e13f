"""Stage 2: four-fold super-resolution of fused pictures, by the published recipe.

python launch/make_pseudo_hr.py ...   (LR-HR pairs by stage 1 and the teacher)
python launch/train.py --config=configs/sr.py --workdir=runs/sr --config.data.train=pseudo_hr:FOLDER

Cost: with `--config.data.crop=24 --config.precision=float32` 160 steps took 15 minutes on two cores that did other work
too, and making 32 pairs of 48-pixel crops before them 8 minutes.
Result: of that run, which began as bicubic enlargement: validation loss .612 -> .534 (perceptual 2.02 -> 1.75), SSIM to
the teacher .959 -> .965. PSNR to it fell from 41.2 to 38.1 dB: the perceptual term is nearly all of the objective. At
full length it has not been run.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """Adam at 2e-4, batch 4, mixed precision, at most 100 epochs, patience 10, L1 + .3 perceptual + .15 colour."""
    config = default_config("sr")
    config.precision = "bfloat16"
    config.batch_size = 4
    config.epochs = 100
    config.early_stopping.patience = 10
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 100
    config.loss.sr.l1 = 1.0
    config.loss.sr.perceptual = 0.3
    config.loss.sr.color = 0.15
    return config
