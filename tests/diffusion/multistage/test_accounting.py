"""The sums of the multi-stage paper's Tables 7 to 9, and costs of real networks."""

import numpy as np
import pytest
import torch

from stepsearch.diffusion.multistage.accounting import Amount, StageCosts, stage_costs
from stepsearch.diffusion.multistage.networks import MultistageUNet
from stepsearch.diffusion.multistage.unet_arithmetic import unet_costs

# parameters in M and GFLOPs of stages 1 to 3, of the encoder, and the totals printed for both
TABLE_7 = [
    ([(169, 29.95), (108, 17.65), (47, 6.31)], (43, 5.75), (237, 18.65)),
    ([(168, 27.57), (138, 21.73), (72, 9.65)], (68, 8.98), (242, 19.7)),
    ([(189, 29.43), (160, 23.91), (103, 13.7)], (98, 12.93), (256, 22.45)),
    ([(174, 26.54), (126, 17.62), (103, 13.7)], (98, 12.93), (207, None)),  # GFLOPs of row 3
]
TABLE_8 = [
    ([(238, 80.03), (189, 64.95), (161, 51.87)], (79, 16.69), (428, 65.75)),
    ([(206, 72.61), (158, 57.85), (108, 34.38)], (55, 11.6), (361, 54.37)),
    ([(274, 88.39), (224, 72.97), (170, 48.17)], (108, 22.71), (452, 69.22)),
    ([(316, 105.82), (224, 72.97), (170, 48.17)], (108, 22.71), (494, 76.19)),
]


def costs(stages: list[tuple[float, float]], shared: tuple[float, float]) -> StageCosts:
    return StageCosts(Amount(*shared), tuple(Amount(*stage) for stage in stages))


@pytest.mark.parametrize(("stages", "shared", "total"), TABLE_7 + TABLE_8)
def test_all_parameters_are_the_encoders_and_each_decoders(stages, shared, total):
    assert costs(stages, shared).parameters == pytest.approx(total[0], abs=2)


@pytest.mark.parametrize(("stages", "shared", "total"), TABLE_8)
def test_flops_of_table_8_are_weighted_by_8_4_and_8_evaluations(stages, shared, total):
    assert costs(stages, shared).flops([8, 4, 8]) == pytest.approx(total[1], abs=0.006)


def test_flops_of_table_7s_first_row_are_weighted_by_9_3_and_8_evaluations():
    stages, shared, total = TABLE_7[0]
    assert costs(stages, shared).flops([9, 3, 8]) == pytest.approx(total[1], abs=0.006)


@pytest.mark.parametrize(("row", "share"), [(TABLE_7[0], 0.18), (TABLE_8[3], 0.22)])
def test_the_shared_share_of_the_papers_two_models(row, share):
    assert costs(row[0], row[1]).shared_share == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize(
    ("parameters", "total"), [([108], 108), ([136, 95], 188), ([169, 108, 47], 238)]
)
def test_table_9_has_the_encoder_of_43_million_up_to_three_stages(parameters, total):
    """It prints 230 for three, against the 237 of Table 7 for the same network."""
    rows = costs([(p, 1) for p in parameters], (43, 0))
    assert rows.parameters == total


@pytest.mark.parametrize(
    ("edges", "gflops", "total"),
    [
        ([0.476], [26.59, 16.85], 21.49),
        ([0.376, 0.526, 0.726], [29.78, 16.85, 11.97, 4.41], 17.33),
        ([0.376, 0.476, 0.626, 0.776], [30.38, 16.82, 16.82, 4.42, 3.28], 17.03),
    ],
)
def test_flops_of_table_9_are_weighted_by_the_lengths_of_the_stages(edges, gflops, total):
    """But for three stages, which are those of Table 7."""
    lengths = np.diff([0, *edges, 1])
    stages = [(50, flops) for flops in gflops]
    assert costs(stages, (43, 0)).flops(list(lengths)) == pytest.approx(total, abs=0.006)


@pytest.mark.parametrize(
    ("iterations", "gflops", "pflops"), [(2.5e5, 18.65, 4.66), (1.7e5, 76.19, 12.95)]
)
def test_training_costs_are_in_proportion_to_those_of_table_2(iterations, gflops, pflops):
    """The paper counts an iteration as one evaluation of one image; here 3 for each image."""
    row = costs([(1, gflops)], (1, 1))
    assert row.training_flops(iterations) / 3e6 == pytest.approx(pflops, rel=0.002)


def network(*decoders: tuple[int, int]) -> MultistageUNet:
    return MultistageUNet(
        8, 1, 1, (16, 32), decoders, range(1, len(decoders)), layers_per_block=1, norm_num_groups=8
    )


def test_costs_of_a_network_add_up_to_its_own():
    made = network((24, 48), (16, 32), (8, 16))
    counted = stage_costs(made, (1, 8, 8))
    assert counted.parameters == made.num_parameters()
    alone = [stage_costs(network(own), (1, 8, 8)) for own in ((24, 48), (16, 32), (8, 16))]
    assert [one.stages[0] for one in alone] == list(counted.stages)
    assert {one.shared for one in alone} == {counted.shared}
    assert counted.stages[1].parameters == 163_985  # the default U-Net of tests/diffusion


def test_flops_are_those_of_each_convolution_and_matrix():
    made = network((16, 32))
    seen = []

    def count(layer, args, output):
        a_position = 2 * layer.weight[0].numel()
        seen.append(a_position * output.numel())

    for layer in made.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    made(torch.zeros(1, 1, 8, 8), 0)
    attention = 2 * 2 * 16 * 16 * 32  # q k^T and its product with v, at 4 x 4 positions
    expected = sum(seen) + attention
    assert stage_costs(made, (1, 8, 8)).stages[0].flops == expected


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("channels", [(16,), (16, 32), (8, 24, 16)])
@pytest.mark.parametrize("attention", [True, False])
def test_costs_from_the_widths_alone_are_those_of_the_network(layers, channels, attention):
    decoders = [channels, tuple(width // 2 + 3 for width in channels)]
    made = MultistageUNet(
        (8, 16),
        3,
        3,
        channels,
        decoders,
        (1,),
        layers_per_block=layers,
        norm_num_groups=8,
        add_attention=attention,
    )
    shape = (3, 8, 16)
    found = unet_costs(shape, channels, decoders, layers=layers, attention=attention)
    assert found == stage_costs(made, shape)


@pytest.mark.parametrize("evaluations", [[1, 2], [0, 0, 0], [1, -1, 3], [1, 1, 1, 1]])
def test_evaluations_that_do_not_fit_the_stages_are_refused(evaluations):
    stages, shared, _ = TABLE_7[0]
    with pytest.raises(ValueError, match=r"^evaluations must be 3 numbers >= 0, not all 0, got"):
        costs(stages, shared).flops(evaluations)
