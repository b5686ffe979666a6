package solver

import "github.com/spin-native/spin/tensor"

// Composition is several operators one after the other: A(x) = An(...A2(A1(x))).
type Composition struct{ parts []Operator }

// Compose chains operators in the order in which they act on the picture: Compose(blur, downsample) blurs first.
func Compose(first Operator, then ...Operator) *Composition {
	return &Composition{append([]Operator{first}, then...)}
}

func (c *Composition) Apply(x *tensor.Tensor) *tensor.Tensor {
	for _, op := range c.parts {
		x = op.Apply(x)
	}
	return x
}

// VJP is J1^T J2^T ... Jn^T r, each taken where the part stands in the chain.
func (c *Composition) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	at := make([]*tensor.Tensor, len(c.parts)) // inputs of the parts; nil where linear parts need none
	at[0] = x
	if !c.IsLinear() {
		for i, op := range c.parts[:len(c.parts)-1] {
			at[i+1] = op.Apply(at[i])
		}
	}
	for i := len(c.parts) - 1; i >= 0; i-- {
		r = c.parts[i].VJP(at[i], r)
	}
	return r
}

// IsLinear is true where every part is linear.
func (c *Composition) IsLinear() bool {
	for _, op := range c.parts {
		if !isLinear(op) {
			return false
		}
	}
	return true
}

// Lipschitz is the product of the parts' bounds, or 0, unknown, where a part has none or is not linear.
func (c *Composition) Lipschitz() float64 {
	if !c.IsLinear() {
		return 0
	}
	product := 1.0
	for _, op := range c.parts {
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
	if r, ok := c.parts[len(c.parts)-1].(Restricter); ok {
		return r.Restrict(y)
	}
	return y
}

// Counts is that of the last part, or nil, all elements.
func (c *Composition) Counts(y [4]int) []int { return counts(c.parts[len(c.parts)-1], y) }

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
