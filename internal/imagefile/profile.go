package imagefile

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// matchingProfile drops a profile that cannot describe the pixels handed out: the
// CMYK profile of a picture converted to RGB, or one too short to be any.
func matchingProfile(icc []byte, gray bool) []byte {
	if len(icc) < 132 || string(icc[36:40]) != "acsp" {
		return nil
	}
	switch string(icc[16:20]) {
	case "RGB ":
		return icc
	case "GRAY":
		if gray {
			return icc
		}
	}
	return nil
}

// profileFor is the profile to write for a picture stored as grey or as colour.
// PNG demands that the two agree.
func profileFor(icc []byte, gray bool) []byte {
	if icc = matchingProfile(icc, gray); icc == nil {
		return nil
	}
	if gray != (string(icc[16:20]) == "GRAY") {
		return nil
	}
	return icc
}

// ProfileName returns the description of the colour profile, such as "sRGB
// IEC61966-2.1" or "Display P3", "unnamed" where it has none, and "" where the
// picture has no profile. The engine takes the values as they are, so a caller
// should warn when the name does not contain "sRGB".
func (m *Image) ProfileName() string {
	icc := m.ICC
	if len(icc) < 132 {
		return ""
	}
	n := min(uint64(binary.BigEndian.Uint32(icc[128:])), uint64(len(icc)-132)/12)
	for i := range n {
		e := icc[132+12*i:]
		if string(e[:4]) != "desc" {
			continue
		}
		at, size := uint64(binary.BigEndian.Uint32(e[4:])), uint64(binary.BigEndian.Uint32(e[8:]))
		if at+size > uint64(len(icc)) {
			break
		}
		if s := profileText(icc[at : at+size]); s != "" {
			return s
		}
	}
	return "unnamed"
}

// profileText reads a tag of type desc (ASCII, profile version 2) or mluc (the
// first of several UTF-16 strings, version 4).
func profileText(tag []byte) string {
	if len(tag) < 12 {
		return ""
	}
	var s string
	switch string(tag[:4]) {
	case "desc":
		n := min(uint64(binary.BigEndian.Uint32(tag[8:])), uint64(len(tag)-12))
		s = latin1(string(tag[12 : 12+n]))
	case "mluc":
		if len(tag) < 28 {
			return ""
		}
		size, at := uint64(binary.BigEndian.Uint32(tag[20:])), uint64(binary.BigEndian.Uint32(tag[24:]))
		if at+size > uint64(len(tag)) {
			return ""
		}
		var units []uint16
		for b := tag[at : at+size]; len(b) >= 2; b = b[2:] {
			units = append(units, binary.BigEndian.Uint16(b))
		}
		s = string(utf16.Decode(units))
	}
	// The name goes into a one-line message.
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
