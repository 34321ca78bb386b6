"""Bring one network to another by the symmetries of its architecture."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lmcbench.connect.activation_matching import activation_gains
from lmcbench.connect.arguments import as_images, as_model, as_state
from lmcbench.connect.blending import State, check_matches_model, check_pair
from lmcbench.connect.function_check import check_function
from lmcbench.connect.isolation import copy_model
from lmcbench.connect.orthogonal_matching import align_streams
from lmcbench.connect.permutation_spec import example_image, trace_permutations
from lmcbench.connect.unit_groups import permute_state
from lmcbench.connect.weight_matching import match_activations, match_weights
from lmcbench.errors import UserError
from lmcbench.values import check_choice


def align(
    model: nn.Module,
    state_a: State,
    state_b: State,
    *,
    match: Literal["weights", "activations"] = "weights",
    symmetry: Literal["permutation", "orthogonal"] = "permutation",
    images: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return `state_b` with its units permuted, or its streams turned as well, so that they match A's.

    Weight matching of Ainsworth et al. (2023, Git Re-Basin, arXiv 2209.04836, algorithm 1): maximise the
    inner product of A's weights and B's permuted ones by coordinate descent over the groups of units that
    must be permuted together, one linear assignment each, in a fixed order from input to output. The better
    result of two starts is kept: B as it is (so the distance never grows), and a forward pass that matches
    each group by weights from groups matched before, which recovers a permuted copy at once. Units that move
    with others (the units of a head with the head) are assigned within every pair of these first.

    Activation matching (Li et al., 2015, arXiv 1511.07543; Jordan et al., 2023, REPAIR): each group gets the
    assignment with the largest sum of correlations between A's and B's outputs of its layers on `images`.

    Orthogonal symmetry (Theus et al., 2025, arXiv 2506.22712): the residual streams of a
    transformer with LayerNorm are turned by orthogonal maps as well. The result has A's LayerNorms and layer
    scales.

    Args:
        model: the network of both states; not modified.
        state_a: state dict to match.
        state_b: state dict to permute.
        match: what to match.
        symmetry: what may be done to B. `"orthogonal"` matches weights only.
        images: `[n, ...]`; the network is traced and checked on the first ones, activations are matched on
            all. None: random ones of a size that the network takes.

    Returns:
        A state dict of copies that computes the same function as `state_b`; tied weights stay tied.

    Raises:
        UserError: if the states are of different networks or not finite, no unit can be permuted (see
            `trace_permutations`), the network has no stream to turn, or the result is found to compute
            another function.

    Examples:
        >>> import torch
        >>> Linear = torch.nn.Linear
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), Linear(4, 6), torch.nn.ReLU(), Linear(6, 3))
        >>> a = model.state_dict()
        >>> b = {**a, "1.weight": a["1.weight"].flip(0), "1.bias": a["1.bias"].flip(0),
        ...      "3.weight": a["3.weight"].flip(1)}
        >>> aligned = align(model, a, b)
        >>> all(torch.equal(aligned[name], a[name]) for name in a)
        True
    """
    model = as_model(model)
    state_a, state_b = as_state(state_a, "state_a", model), as_state(state_b, "state_b", model)
    check_pair(state_a, state_b)
    check_matches_model(model, state_a)
    check_choice(match, "match", ("weights", "activations"))
    check_choice(symmetry, "symmetry", ("permutation", "orthogonal"))
    if symmetry == "orthogonal" and match == "activations":
        raise UserError("align: orthogonal maps are matched by weights; leave out match='activations'.")
    if match == "activations" and images is None:
        raise UserError("align: matching activations needs images.")
    given = example_image(copy_model(model).cpu().eval()) if images is None else as_images(images, "images")
    spec = trace_permutations(model, given)
    if symmetry == "orthogonal":
        aligned = align_streams(model, state_a, state_b, spec, given)
    elif match == "activations":
        gains = activation_gains(model, state_a, state_b, spec, given)
        aligned = permute_state(state_b, spec, match_activations(spec, gains))
    else:
        aligned = permute_state(state_b, spec, match_weights(spec, state_a, state_b))
    check_function(model, state_b, aligned, given[:2])
    return aligned
