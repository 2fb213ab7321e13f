"""Both stages end to end, from their checkpoints, with the sum of both objectives and a tenth of the rate.

    python launch/train.py --config=configs/joint.py --workdir=runs/joint --config.data.train=FOLDER \
        --config.init.fusion=runs/fusion/best.safetensors --config.init.sr=runs/sr/best.safetensors

Cost: 28 steps on windows of 160x128, VGG16 and teacher included, took 17 minutes on two cores that did other work too.
Result: of those, from the checkpoints of short runs of `fusion.py` and `sr.py` (`--config.optimizer.warmup_steps=4
--config.optimizer.ema_decay=0.9`): training loss 2.01 -> 1.83, validation loss 1.326 -> 1.316 at step 12, the best. At
full length it has not been run.
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
