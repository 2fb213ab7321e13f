"""Stage 2 with the teacher on the fly: Real-ESRGAN enlarges every crop as it comes, nothing is stored.

esr-lefuse infer --fusion_only ... --out_dir FUSED
python launch/train.py --config=configs/sr_teacher.py --workdir=runs/sr_teacher --config.data.train=teacher:FUSED

Cost: not measured; the teacher takes about 36 MFLOP for each input pixel, 37 GFLOP for a crop of 32.
Result: not measured; tests run it on tiny crops only.
"""

from esr_lefuse_jax.config import default_config


def get_config():
    """Small crops: a step's cost is mostly the teacher's."""
    config = default_config("sr")
    config.precision = "bfloat16"
    config.batch_size = 8
    config.data.crop = 32
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_decay = 0.999
    return config
