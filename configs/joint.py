"""Both stages end to end, from their checkpoints, with the sum of both objectives and a tenth of the rate.

    python launch/train.py --config=configs/joint.py --workdir=runs/joint --config.data.train=FOLDER \
        --config.init.fusion=runs/fusion/best.safetensors --config.init.sr=runs/sr/best.safetensors

Cost: not measured.
Result: not measured.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """References of the enlargement by the teacher, made from the target of the fusion."""
    config = default_config("joint")
    config.batch_size = 4
    config.epochs = 20
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_decay = 0.999
    return config
