"""The open phase of the fusion weights `open`."""

from esr_lefuse_jax.config import default_config


def get_config():
    """220 steps of 4 windows of 64 pixels, starting from `train_open.py start`."""
    config = default_config("fusion")
    config.seed = 5
    config.steps = 220
    config.batch_size = 4
    config.data.crop = 64
    config.loss.fusion.perceptual = 0.0
    config.loss.fusion.gradient = 1.0
    config.loss.fusion.ssim = 0.25
    config.loss.fusion.smooth = 0.3
    config.loss.fusion.infrared_share = 0.35
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 15
    config.optimizer.ema_decay = 0.98
    config.optimizer.final_share = 0.02
    config.eval.every_steps = 55
    config.early_stopping.patience = 0
    return config
