package jpegcoef

import (
	"errors"
	"fmt"
)

// huffman decodes by the lengths of the codes: the first code of every length, and where its values begin.
type huffman struct {
	values []byte
	least  [17]int32 // first code of a length
	most   [17]int32 // and last, -1 where there is none
	at     [17]int   // index of the first one's value
	fast   [256]struct{ value, length uint8 }
}

func (r *reader) huffmanTables(b []byte) error {
	for len(b) > 0 {
		if len(b) < 17 {
			return errShort
		}
		class, id := b[0]>>4, b[0]&15
		if class > 1 || id > 3 {
			return fmt.Errorf("Huffman table %d of class %d", id, class)
		}
		h, code, total := &huffman{}, int32(0), 0
		for length := 1; length <= 16; length++ {
			n := int(b[length])
			h.least[length], h.most[length], h.at[length] = code, code+int32(n)-1, total
			if n == 0 {
				h.most[length] = -1
			}
			code += int32(n)
			total += n
			if code > 1<<length {
				return errors.New("Huffman table with more codes than there can be")
			}
			code <<= 1
		}
		if total == 0 || total > 256 || len(b) < 17+total {
			return errors.New("Huffman table of a wrong length")
		}
		h.values = b[17 : 17+total]
		for length := 1; length <= 8; length++ {
			for c := h.least[length]; c <= h.most[length]; c++ {
				for rest := range int32(1) << (8 - length) {
					f := &h.fast[c<<(8-length)+rest]
					f.value, f.length = h.values[h.at[length]+int(c-h.least[length])], uint8(length)
				}
			}
		}
		r.coding[class][id] = h
		b = b[17+total:]
	}
	return nil
}

// fill makes sure of n bits, at most 16. A marker ends the data: the bits behind it are an error only when they are asked for.
func (r *reader) fill(n int) error {
	for r.count < n {
		if len(r.data) == 0 {
			return errShort
		}
		b := r.data[0]
		if b == 0xff {
			if len(r.data) < 2 {
				return errShort
			}
			if r.data[1] != 0 {
				return errors.New("a scan ends early")
			}
			r.data = r.data[1:]
		}
		r.data = r.data[1:]
		r.bits = r.bits<<8 | uint32(b)
		r.count += 8
	}
	return nil
}

func (r *reader) receive(n int) (int32, error) {
	if n == 0 {
		return 0, nil
	}
	if err := r.fill(n); err != nil {
		return 0, err
	}
	r.count -= n
	return int32(r.bits>>r.count) & (1<<n - 1), nil
}

// extended is a number of n bits with its sign.
func (r *reader) extended(n int) (int32, error) {
	v, err := r.receive(n)
	if n > 0 && v < 1<<(n-1) {
		v -= 1<<n - 1
	}
	return v, err
}

func (r *reader) decode(h *huffman) (int, error) {
	if r.fill(8) == nil {
		if f := h.fast[uint8(r.bits>>(r.count-8))]; f.length > 0 {
			r.count -= int(f.length)
			return int(f.value), nil
		}
	}
	code := int32(0)
	for length := 1; length <= 16; length++ {
		bit, err := r.receive(1)
		if err != nil {
			return 0, err
		}
		code = code<<1 | bit
		if code <= h.most[length] {
			if code < h.least[length] {
				break
			}
			return int(h.values[h.at[length]+int(code-h.least[length])]), nil
		}
	}
	return 0, errors.New("a code that no Huffman table has")
}

// part is a component in a scan.
type part struct {
	*Component
	dc, ac *huffman
	last   int32 // DC of the block before
}

// scan reads one: all coefficients of a sequential file, or of a progressive one those of a band, as far as a bit.
func (r *reader) scan(b []byte) error {
	if !r.seen {
		return errors.New("data before the frame")
	}
	if r.scans++; r.scans > maxScans {
		return fmt.Errorf("more than %d scans", maxScans)
	}
	if len(b) < 1 || int(b[0]) < 1 || int(b[0]) > len(r.f.Components) || len(b) != 4+2*int(b[0]) {
		return errors.New("scan of a wrong length")
	}
	n := int(b[0])
	from, to, high, low := int(b[1+2*n]), int(b[2+2*n]), int(b[3+2*n]>>4), int(b[3+2*n]&15)
	if !r.f.Progressive {
		from, to, high, low = 0, 63, 0, 0
	}
	if from > to || to > 63 || from == 0 && to != 0 && r.f.Progressive || from > 0 && n > 1 || low > 13 || high > 0 && high != low+1 {
		return fmt.Errorf("scan of coefficients %d to %d, bits %d to %d", from, to, high, low)
	}
	var parts []part
	blocks := 0 // of an interleaved unit
	for i := range n {
		at := -1
		for k := range r.f.Components {
			if r.f.Components[k].ID == b[1+2*i] {
				at = k
			}
		}
		if at < 0 {
			return errors.New("scan of a component that there is not")
		}
		c := &r.f.Components[at]
		for _, p := range parts {
			if p.Component == c {
				return errors.New("a component twice in a scan")
			}
		}
		d, a := b[2+2*i]>>4, b[2+2*i]&15
		if d > 3 || a > 3 {
			return errors.New("scan with a Huffman table that there is not")
		}
		p := part{Component: c, dc: r.coding[0][d], ac: r.coding[1][a]}
		if from == 0 && high == 0 && p.dc == nil || to > 0 && p.ac == nil {
			return errors.New("scan without its Huffman table")
		}
		if !c.known { // the table that holds when the data begin
			if r.tables[c.table] == nil {
				return errors.New("data without a quantisation table")
			}
			c.Table, c.known = *r.tables[c.table], true
		}
		blocks += c.H * c.V
		parts = append(parts, p)
	}
	if n > 1 && blocks > 10 {
		return fmt.Errorf("%d blocks in a unit, at most 10", blocks)
	}
	r.bits, r.count, r.eob = 0, 0, 0
	block := func(p *part, by, bx int) error {
		if r.budget--; r.budget < 0 {
			return errors.New("more data than the picture has use for")
		}
		c := p.Coefficients[(by*p.Across+bx)*64:][:64]
		if !r.f.Progressive {
			return r.sequential(p, c)
		}
		return r.progressive(p, c, from, to, high, low)
	}
	units, across := 0, 0
	if n == 1 { // without interleaving: only the blocks that the picture touches
		c := parts[0].Component
		across, units = r.blocks(c)
		units *= across
	} else {
		across = parts[0].Across / parts[0].H
		units = across * (parts[0].Down / parts[0].V)
	}
	for u := range units {
		if r.restart > 0 && u > 0 && u%r.restart == 0 {
			if err := r.resume(parts, u/r.restart-1); err != nil {
				return err
			}
		}
		if n == 1 {
			if err := block(&parts[0], u/across, u%across); err != nil {
				return err
			}
			continue
		}
		for i := range parts {
			p := &parts[i]
			for k := range p.H * p.V {
				if err := block(p, u/across*p.V+k/p.H, u%across*p.H+k%p.H); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// blocks are the blocks of a component that the picture touches.
func (r *reader) blocks(c *Component) (across, down int) {
	h, v := 1, 1
	for _, o := range r.f.Components {
		h, v = max(h, o.H), max(v, o.V)
	}
	return ((r.f.Width*c.H+h-1)/h + 7) / 8, ((r.f.Height*c.V+v-1)/v + 7) / 8
}

// resume reads a restart marker.
func (r *reader) resume(parts []part, number int) error {
	r.bits, r.count, r.eob = 0, 0, 0
	if len(r.data) < 2 {
		return errShort
	}
	if r.data[0] != 0xff || r.data[1] != 0xd0+byte(number%8) {
		return errors.New("a restart marker is missing")
	}
	r.data = r.data[2:]
	for i := range parts {
		parts[i].last = 0
	}
	return nil
}

// difference reads the DC of a block.
func (r *reader) difference(p *part) error {
	n, err := r.decode(p.dc)
	if err != nil {
		return err
	}
	if n > 15 {
		return errors.New("a DC coefficient of more than 15 bits")
	}
	v, err := r.extended(n)
	p.last += v
	if p.last < -1<<15 || p.last >= 1<<15 {
		return errors.New("a DC coefficient of more than 16 bits")
	}
	return err
}

func (r *reader) sequential(p *part, c []int16) error {
	if err := r.difference(p); err != nil {
		return err
	}
	c[0] = int16(p.last)
	for k := 1; k < 64; k++ {
		v, err := r.decode(p.ac)
		if err != nil {
			return err
		}
		run, size := v>>4, v&15
		if size == 0 {
			if run < 15 {
				break
			}
			k += 15
			continue
		}
		if k += run; k > 63 {
			return errors.New("a block of more than 64 coefficients")
		}
		x, err := r.extended(size)
		if err != nil {
			return err
		}
		c[zigzag[k]] = int16(x)
	}
	return nil
}

func (r *reader) progressive(p *part, c []int16, from, to, high, low int) error {
	switch {
	case from == 0 && high == 0:
		err := r.difference(p)
		c[0] = int16(p.last << low)
		return err
	case from == 0:
		bit, err := r.receive(1)
		c[0] |= int16(bit << low)
		return err
	case high == 0:
		return r.first(p, c, from, to, low)
	}
	return r.refine(p, c, from, to, low)
}

// run reads the length of a run of ends of blocks.
func (r *reader) run(size int) error {
	extra, err := r.receive(size)
	r.eob = 1<<size + int(extra)
	return err
}

// first is a band of AC as far as bit low.
func (r *reader) first(p *part, c []int16, from, to, low int) error {
	if r.eob > 0 {
		r.eob--
		return nil
	}
	for k := from; k <= to; k++ {
		v, err := r.decode(p.ac)
		if err != nil {
			return err
		}
		run, size := v>>4, v&15
		if size == 0 {
			if run < 15 {
				err := r.run(run)
				r.eob--
				return err
			}
			k += 15
			continue
		}
		if k += run; k > to {
			return errors.New("a band of more coefficients than it has")
		}
		x, err := r.extended(size)
		if err != nil {
			return err
		}
		c[zigzag[k]] = int16(x << low)
	}
	return nil
}

// refine is one more bit of a band of AC.
func (r *reader) refine(p *part, c []int16, from, to, low int) error {
	bit := int16(1) << low
	k := from
	if r.eob == 0 {
		for k <= to {
			v, err := r.decode(p.ac)
			if err != nil {
				return err
			}
			run, size := v>>4, v&15
			var x int16
			switch {
			case size == 1:
				positive, err := r.receive(1)
				if err != nil {
					return err
				}
				if x = -bit; positive == 1 {
					x = bit
				}
			case size > 1:
				return errors.New("a refinement of more than one bit")
			case run < 15:
				if err := r.run(run); err != nil {
					return err
				}
			}
			if r.eob > 0 {
				break
			}
			for ; k <= to; k++ { // past run zeros; what is not zero gets its bit
				if c[zigzag[k]] != 0 {
					if err := r.correct(&c[zigzag[k]], bit); err != nil {
						return err
					}
					continue
				}
				if run == 0 {
					c[zigzag[k]] = x
					k++
					break
				}
				run--
			}
		}
	}
	if r.eob > 0 {
		for ; k <= to; k++ {
			if c[zigzag[k]] != 0 {
				if err := r.correct(&c[zigzag[k]], bit); err != nil {
					return err
				}
			}
		}
		r.eob--
	}
	return nil
}

// correct reads one more bit of a coefficient.
func (r *reader) correct(v *int16, bit int16) error {
	one, err := r.receive(1)
	if err != nil || one == 0 || *v&bit != 0 && *v > 0 || -*v&bit != 0 && *v < 0 {
		return err
	}
	if *v > 0 {
		*v += bit
	} else {
		*v -= bit
	}
	return nil
}
