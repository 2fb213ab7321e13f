"""Stage 2 on photographs: any folder of sharp pictures is the truth, their reductions are the inputs.

python launch/train.py --config=configs/sr_photo.py --workdir=runs/sr_photo --config.data.train=photo:FOLDER

Cost: 1000 steps of 2 windows of 24 pixels (an earlier `recipes/config_sr.py`) took 24 minutes on a busy core.
Result: of that run, true PSNR on five held-out pictures 24.33 dB (bicubic) -> 24.70 dB. At full length it has not
been run.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """Judged by true PSNR; a quarter of the inputs also goes through blur, noise and JPEG."""
    config = default_config("sr")
    config.batch_size = 8
    config.loss.sr.perceptual = 0.0
    config.data.photo_degradation = 0.25
    config.early_stopping.metric = "psnr"
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_decay = 0.999
    return config
