"""The legs of the super-resolution weights `open` without the perceptual term; the model card gives all of them."""

from esr_lefuse_jax.config import default_config


def get_config():
    """2800 steps of 2 windows of 24 pixels: the second leg."""
    config = default_config("sr")
    config.steps = 2800
    config.batch_size = 2
    config.data.crop = 24
    config.loss.sr.perceptual = 0.0
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 20
    config.optimizer.ema_decay = 0.998
    config.optimizer.final_share = 0.02
    config.eval.every_steps = 500
    config.early_stopping.patience = 0
    config.early_stopping.metric = "psnr"
    return config
