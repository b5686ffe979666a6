// One instruction set's implementation of everything, and its table.
#include "vec.h"
#include "conv_template.h"
#include "bf16_template.h"
#include "winograd_template.h"
#include "attention_template.h"
#include "transformer_template.h"
#include "nearest_template.h"
#include "image_template.h"
#include "pointwise_template.h"
#include "peak_template.h"
#include "fft_template.h"

const level *LEVEL(void) {
	static const level table = {
		.lanes = LANES, .panel = NR, .brief = HAS_BRIEF,
		.conv_packed = conv_packed, .conv_pack = conv_pack, .conv_scratch = conv_scratch, .conv_task = conv_task,
		.moments = moments, .moments_join = moments_join, .halve = halve,
		.attention_packed = attention_packed, .attention_pack = attention_pack, .attention_scratch = attention_scratch,
		.attention_rows = attention_rows, .attention_task = attention_task,
		.layer_norm = layer_norm, .geglu = geglu, .nearest = nearest,
		.resample = resample, .blend = blend, .dot = dot, .axpys = axpys, .conjugate = conjugate, .accelerate = accelerate, .adam = adam,
		.horizontal = horizontal, .finish = finish, .filter_row = filter_row,
		.pointwise = pointwise, .sparse_pack = sparse_pack, .sparse = sparse,
		.fma_chains = fma_chains,
		.fft_rows = fft_rows, .fft_columns = fft_columns,
		.circle_in = circle_in, .circle_columns = circle_columns, .circle_out = circle_out,
	};
	return &table;
}
