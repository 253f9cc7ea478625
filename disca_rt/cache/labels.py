"""Labels of steps: what reports count and time them by. No computation depends on one."""

FULL = "full"  # everything is computed
PREDICTED = "predicted"  # stand-ins, and nothing that is kept
PARTLY = "partly"  # one pass is computed, the other predicted
PARTIAL = "partial"  # some branches are computed, others predicted
SPARSE = "sparse"  # attention to some of the keys
MOVING_ROWS = "moving rows"  # all blocks, on some of the rows: FastCache
RAS, EDIT = "RAS", "edit"  # likewise, by RAS, and of an edit
TOCA, CLUSCA = "ToCa", "ClusCa"  # branches are predicted, but for some rows; authors' labels
AGGRESSIVE = "aggressive"  # DuCa's step in which no block runs; its authors' label
BY_LEVEL = "step-cached", "cfg-cached", "block-cached"  # MixCache's: what stands in
