"""The last leg of the fusion weights `open`; starts from wired weights: `--config.init.fusion`.

The model card gives what the legs before it change.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """2400 steps of one window of 128 pixels."""
    config = default_config("fusion")
    config.seed = 9
    config.steps = 2400
    config.batch_size = 1
    config.data.crop = 128
    config.model.freeze_batch_norm = True
    config.loss.fusion.perceptual = 0.0
    config.loss.fusion.gradient = 1.0
    config.loss.fusion.ssim = 0.25
    config.loss.fusion.smooth = 0.3
    config.loss.fusion.infrared_share = 0.35
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 20
    config.optimizer.ema_decay = 0.995
    config.optimizer.final_share = 0.02
    config.eval.every_steps = 200
    config.early_stopping.patience = 0
    return config
