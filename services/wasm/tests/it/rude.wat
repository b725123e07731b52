(component
  (core module $m
    (memory (export "memory") 1)
    (global $heap (mut i32) (i32.const 1024))
    (global $calls (mut i32) (i32.const 48))
    (data (i32.const 64) "{\22name\22:\22echo\22,\22inputSchema\22:{\22type\22:\22object\22}}")
    (func $realloc (export "realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
      (global.set $heap (i32.add (local.get $at) (local.get $size)))
      (block $fits
        (br_if $fits (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
        (drop (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1)))))
      (local.get $at))
    ;; A result at 16: its case, and the text's place and length.
    (func $result (param $case i32) (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $case))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    (func (export "list-tools") (result i32)
      (i32.store (i32.const 32) (i32.const 64))
      (i32.store (i32.const 36) (i32.const 47))
      (call $result (i32.const 0) (i32.const 32) (i32.const 1)))
    (func $deep (param $n i32) (result i32)
      (i32.add (call $deep (i32.add (local.get $n) (i32.const 1))) (i32.const 1)))
    (func (export "call-tool") (param $name i32) (param $name_length i32) (param $arguments i32) (param $length i32) (result i32)
      (local $letter i32)
      (local.set $letter (i32.load8_u (local.get $name)))
      (if (i32.eq (local.get $letter) (i32.const 101)) ;; e
        (then (return (call $result (i32.const 0) (local.get $arguments) (local.get $length)))))
      (if (i32.eq (local.get $letter) (i32.const 99)) ;; c
        (then
          (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (i32.store8 (i32.const 48) (global.get $calls))
          (return (call $result (i32.const 0) (i32.const 48) (i32.const 1)))))
      (if (i32.eq (local.get $letter) (i32.const 108)) ;; l
        (then (loop $forever (br $forever))))
      (if (i32.eq (local.get $letter) (i32.const 103)) ;; g
        (then (loop $forever (drop (memory.grow (i32.const 16))) (br $forever))))
      (if (i32.eq (local.get $letter) (i32.const 100)) ;; d
        (then (return (call $deep (i32.const 0)))))
      (if (i32.eq (local.get $letter) (i32.const 119)) ;; w
        (then (return (call $result (i32.const 0) (i32.const -16) (i32.const 1000)))))
      (if (i32.eq (local.get $letter) (i32.const 104)) ;; h
        (then
          (drop (memory.grow (i32.const 64)))
          (memory.fill (i32.const 2048) (i32.const 120) (i32.const 4194304))
          (return (call $result (i32.const 0) (i32.const 2048) (i32.const 4194304)))))
      (if (i32.eq (local.get $letter) (i32.const 114)) ;; r
        (then (return (call $result (i32.const 1) (local.get $name) (local.get $name_length)))))
      unreachable))
  (core instance $i (instantiate $m))
  (func (export "list-tools") (result (result (list string) (error string)))
    (canon lift (core func $i "list-tools") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func (export "call-tool") (param "name" string) (param "arguments" string) (result (result string (error string)))
    (canon lift (core func $i "call-tool") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))
