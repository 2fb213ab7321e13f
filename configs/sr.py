"""Stage 2: four-fold super-resolution of fused pictures, by the published recipe.

python launch/make_pseudo_hr.py ...   (LR-HR pairs by stage 1 and the teacher)
python launch/train.py --config=configs/sr.py --workdir=runs/sr --config.data.train=pseudo_hr:FOLDER

Cost: not measured.
Result: not measured.
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
