"""Whether training works on this machine: 40 steps of super-resolution on rendered pictures.

    esr-lefuse prepare-data --rendered 4 --size 160x128 --out_dir outputs/rendered
    python launch/train.py --config=configs/smoke.py --workdir=runs/smoke \
        --config.data.train=photo:outputs/rendered/clean

Cost: 47 seconds of CPU time; beside other jobs on two cores it took 117 seconds.
Result: PSNR 24.1 dB (bicubic, where it starts) -> 24.4 dB.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """Tiny crops, no perceptual loss."""
    config = default_config("sr")
    config.batch_size = 8
    config.steps = 40
    config.data.crop = 12
    config.loss.sr.perceptual = 0.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 10
    config.eval.every_steps = 20
    config.log.every_steps = 10
    return config
