//! Parameters. There are at most five of a function (clippy counts them), and a tuple is not one of them.

use super::paths::top_level;

/// The functions with a parameter that is a tuple, taken apart or not.
pub(super) fn tuples(code: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let signature = &code[at + 3..];
        let name: String = signature.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let parameters = parameters(&signature[name.len()..]);
        if !name.is_empty() && parameters.iter().any(|parameter| is_tuple(parameter)) {
            out.push(name);
        }
    }
    out
}

/// What stands between the parentheses behind the generics.
fn parameters(signature: &str) -> Vec<String> {
    let (mut angles, mut parentheses, mut before, mut inside) = (0_i32, 0_i32, ' ', String::new());
    for c in signature.chars() {
        match c {
            '<' if parentheses == 0 => angles += 1,
            '>' if parentheses == 0 && before != '-' => angles -= 1,
            '(' if angles == 0 => parentheses += 1,
            ')' if angles == 0 => parentheses -= 1,
            '{' | ';' if parentheses == 0 => break,
            _ => {}
        }
        if parentheses > 0 {
            inside.push(c);
        } else if !inside.is_empty() {
            break;
        }
        before = c;
    }
    top_level(inside.strip_prefix('(').unwrap_or_default())
}

fn is_tuple(parameter: &str) -> bool {
    let parameter = parameter.trim_start();
    let of_type = parameter.split_once(": ").map_or("", |(_, of_type)| of_type);
    let of_type = of_type.trim_start_matches('&').trim_start_matches("mut ");
    let elements = |text: &str| {
        let inside = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
        inside.is_some_and(|inside| !inside.starts_with("dyn ") && top_level(inside).len() > 1)
    };
    parameter.starts_with('(') || elements(of_type.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_among_parameters_are_found_and_nothing_else() {
        let code = "
            fn a((b, c): (u8, u8)) {}
            async fn d<T: Fn(u8, u8) -> (u8, u8)>(
                e: T,
                (f, g): H,
            ) {}
            fn i(j: &mut (u64, u64)) {}
            fn k(l: &(dyn Fn(u8, u8) -> Result<()> + Send), m: (), n: Vec<(u8, u8)>, o: impl Fn((u8, u8))) -> (u8, u8) {}
            fn p() {}
            type Q = fn(u8);
        ";
        assert_eq!(tuples(code), ["a", "d", "i"]);
    }
}
