package solver

import "github.com/spin-native/spin/tensor"

// Composition is several operators one after the other: A(x) = An(...A2(A1(x))).
type Composition struct{ parts []Operator }

// Compose chains operators in the order in which they act on the picture: Compose(blur, downsample) blurs first.
func Compose(first Operator, then ...Operator) *Composition {
	return &Composition{append([]Operator{first}, then...)}
}

func (c *Composition) Apply(x *tensor.Tensor) *tensor.Tensor { return c.applied(x, plain) }

func (c *Composition) applied(x *tensor.Tensor, e ending) *tensor.Tensor {
	return applied(c.last(), c.before(x), e)
}

// adjoint is that of linear parts.
func (c *Composition) adjoint(r *tensor.Tensor, e ending) *tensor.Tensor {
	for i := len(c.parts) - 1; i > 0; i-- {
		r = c.parts[i].VJP(nil, r)
	}
	return adjoint(c.parts[0], r, e)
}

// VJP is J1^T J2^T ... Jn^T r, each taken where the part stands in the chain.
func (c *Composition) VJP(x, r *tensor.Tensor) *tensor.Tensor { return c.back(x, r, len(c.parts)) }

// back is the VJP of the first n parts.
func (c *Composition) back(x, r *tensor.Tensor, n int) *tensor.Tensor {
	at := make([]*tensor.Tensor, n) // inputs of the parts; nil where linear parts need none
	if !c.IsLinear() {
		for i := range at {
			at[i] = x
			x = c.parts[i].Apply(x)
		}
	}
	for i := n - 1; i >= 0; i-- {
		r = c.parts[i].VJP(at[i], r)
	}
	return r
}

func (c *Composition) last() Operator { return c.parts[len(c.parts)-1] }

// before is what the last part sees of x.
func (c *Composition) before(x *tensor.Tensor) *tensor.Tensor {
	for _, op := range c.parts[:len(c.parts)-1] {
		x = op.Apply(x)
	}
	return x
}

// Misfit is that of the last part, where it has one, and otherwise A(x)-y.
func (c *Composition) Misfit(x, y *tensor.Tensor) *tensor.Tensor {
	if m, ok := c.last().(Misfit); ok {
		return m.Misfit(c.before(x), y)
	}
	return subtract(c.Apply(x), y)
}

func (c *Composition) MisfitVJP(x, r *tensor.Tensor) *tensor.Tensor {
	if m, ok := c.last().(Misfit); ok {
		return c.back(x, m.MisfitVJP(c.before(x), r), len(c.parts)-1)
	}
	return c.VJP(x, r)
}

// Record is that of the last part.
func (c *Composition) Record(a *tensor.Tensor) *tensor.Tensor {
	if r, ok := c.last().(Recorder); ok {
		return r.Record(a)
	}
	return a
}

// Deviation is that of the last part, or 0.
func (c *Composition) Deviation() float64 {
	if r, ok := c.last().(Recorder); ok {
		return r.Deviation()
	}
	return 0
}

// View is that of the last part.
func (c *Composition) View(y *tensor.Tensor) *tensor.Tensor { return view(c.last(), y) }

// IsLinear is true where every part is linear.
func (c *Composition) IsLinear() bool {
	for _, op := range c.parts {
		if !isLinear(op) {
			return false
		}
	}
	return true
}

// Lipschitz is the product of the parts' bounds, or 0, unknown, where a part has none or one before the last is not linear.
func (c *Composition) Lipschitz() float64 {
	product := lipschitz(c.last())
	for _, op := range c.parts[:len(c.parts)-1] {
		if !isLinear(op) {
			return 0
		}
		product *= lipschitz(op)
	}
	return product
}

// Guess goes back through the parts' first guesses.
func (c *Composition) Guess(y *tensor.Tensor) *tensor.Tensor {
	for i := len(c.parts) - 1; i >= 0; i-- {
		y = firstGuess(c.parts[i], y)
	}
	return y
}

func (c *Composition) ImageShape(y [4]int) [4]int {
	for i := len(c.parts) - 1; i >= 0; i-- {
		y = imageShape(c.parts[i], y)
	}
	return y
}

// Restrict is that of the last part: what comes before it is not seen from y.
func (c *Composition) Restrict(y *tensor.Tensor) *tensor.Tensor {
	if r, ok := c.last().(Restricter); ok {
		return r.Restrict(y)
	}
	return y
}

// Counts is that of the last part, or nil, all elements.
func (c *Composition) Counts(y [4]int) []int { return counts(c.last(), y) }

// Monochrome is that of the last part: the others treat channels alike.
func (c *Composition) Monochrome() bool {
	m, ok := c.last().(Monochrome)
	return ok && m.Monochrome()
}

// Task is that of the part whose defaults start at the highest noise level, for the linear schedule: the hardest one.
func (c *Composition) Task() Task {
	var hardest Task
	for _, op := range c.parts {
		if t := taskOf(op); hardest == "" || Defaults(t, 0.05, nil).TStar > Defaults(hardest, 0.05, nil).TStar {
			hardest = t
		}
	}
	return hardest
}

func isLinear(op Operator) bool {
	l, ok := op.(LinearOperator)
	return ok && l.IsLinear()
}

// lipschitz is 0 where the operator knows no bound.
func lipschitz(op Operator) float64 {
	if l, ok := op.(Lipschitz); ok {
		return l.Lipschitz()
	}
	return 0
}

// counts is nil where every element counts.
func counts(op Operator, y [4]int) []int {
	if c, ok := op.(Counter); ok {
		return c.Counts(y)
	}
	return nil
}

func taskOf(op Operator) Task {
	if t, ok := op.(Tasker); ok {
		return t.Task()
	}
	return TaskOther
}

// Free gives the memory of the parts back.
func (c *Composition) Free() {
	for _, op := range c.parts {
		Release(op)
	}
}
