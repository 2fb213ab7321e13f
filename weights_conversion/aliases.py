"""The names under which the same weights were published, brought to the keys of `torch_names`."""

import re
from typing import Any

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.torch_names import by_torch_key
from weights_conversion.zip_reader import quoted

# Where training scripts put the state dict; of several the first is taken (an average over training is
# better).
WRAPPERS = ("params_ema", "model_ema", "params", "state_dict", "model_state_dict", "model", "net", "network")
# Prefixes that wrappers of PyTorch add: (Distributed)DataParallel and torch.compile.
_PREFIX = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_LOSS = "part of the perceptual loss, not of the network"
_DEEPER = "VGG16 beyond relu4_3, which the perceptual loss does not use"

# (pattern, replacement) for whole keys.
_RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "fusion": ((r"content\.fuser\.", "fuser."),),
    "sr": (),
    "vgg16": ((r"(?:content\.)?(?:vgg\.)?vgg_pretrained_features\.", "features."),),
    "rrdb": (
        # ESRGAN's released names, and those of its first code.
        (r"RRDB_trunk\.(\d+)\.RDB([123])\.", r"body.\1.rdb\2."),
        (r"trunk_conv\.", "conv_body."),
        (r"upconv([12])\.", r"conv_up\1."),
        (r"HRconv\.", "conv_hr."),
        (r"model\.0\.", "conv_first."),
        (r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.", r"body.\1.rdb\2.conv\3."),
        (r"model\.1\.sub\.\d+\.(?=weight$|bias$)", "conv_body."),
        (r"model\.3\.", "conv_up1."),
        (r"model\.6\.", "conv_up2."),
        (r"model\.8\.", "conv_hr."),
        (r"model\.10\.", "conv_last."),
    ),
}
# (pattern, reason) for keys that may stand in a file of this network without being part of it.
_IGNORED: dict[str, tuple[tuple[str, str], ...]] = {
    "fusion": (
        (r"(?:content\.)?vgg\.", "VGG16 of the perceptual loss; 'weights import vgg16 --from' reads it"),
        (r"content\.", _LOSS),
    ),
    "sr": (),
    "vgg16": (
        (r"classifier\.", "VGG16's classifier, which the perceptual loss does not use"),
        (r"features\.2[4-9]\.", _DEEPER),
        (r"(?:content\.)?fuser\.", "the fusion network; it is read with --network fusion"),
        (r"content\.", _LOSS),
    ),
    "rrdb": (),
}


def canonical_key(network: str, key: str) -> str:
    """Returns the name in `torch_names` of a published key; unknown keys only lose wrapper prefixes."""
    key = _PREFIX.sub("", key)
    for pattern, replacement in _RENAMES[network]:
        renamed, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return renamed
    if network == "fusion" and f"fuser.{key}" in by_torch_key("fusion"):
        return f"fuser.{key}"
    return key


def why_ignored(network: str, key: str) -> str | None:
    """Returns why a canonical key that is not of the network may be left out; None when it may not."""
    return next((reason for pattern, reason in _IGNORED[network] if re.match(pattern, key)), None)


def unwrap(value: Any, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Finds the state dict in what a file holds.

    Args:
        value: A state dict, or a dict that has one under a name in `WRAPPERS`, up to three levels deep.
        source: Name of the file, for messages.

    Returns:
        (state dict, reason by key for everything beside it).

    Raises:
        CheckpointError: There is no state dict.
    """
    beside: dict[str, str] = {}
    for _ in range(3):
        if not isinstance(value, dict):
            break
        found = [key for key in WRAPPERS if isinstance(value.get(key), dict) and value[key]]
        if not found:
            break
        for key in value:
            if key in found[1:]:
                beside[str(key)] = f"'{found[0]}' is used"
            elif key != found[0]:
                beside[str(key)] = "state of the training, not weights"
        value = value[found[0]]
    if isinstance(value, dict) and any(hasattr(item, "shape") for item in value.values()):
        return {str(key): item for key, item in value.items()}, beside
    what = f"a {type(value).__name__}"
    if isinstance(value, dict):
        what = (
            "an empty dict" if not value else f"a dict of {', '.join(quoted(k, 40) for k in list(value)[:5])}"
        )
    raise CheckpointError(f"{source}: holds no state dict (found {what}); save model.state_dict()")
